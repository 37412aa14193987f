/* device/cpu/cpu.h
 *
 * The CPU device: a pool of threads and the kernels of the machine's instruction set. Each op cuts its work into tasks
 * for the pool; the cut may depend on the number of threads and lanes, since no number of the result depends on the cut
 * (see product.c and attention.c for why).
 */
#ifndef ZOODIP_DEVICE_CPU_CPU_H
#define ZOODIP_DEVICE_CPU_CPU_H

#include "base/pool.h"
#include "device/backend.h"
#include "device/cpu/int8.h"

enum { SCRATCH_BYTES = 2 << 20 }; /* for each thread */

struct cpu {
    struct device device;
    struct pool *pool;
    const struct kernels *kernels;
    const struct int8_unit *int8; /* NULL: none that fits the kernels */
    char *scratch;                /* [threads][SCRATCH_BYTES] */
};

static inline const struct cpu *cpu_of(const struct device *device)
{
    return (const struct cpu *)device;
}

/* The first floats of a thread's scratch. */
static inline float *cpu_scratch(const struct cpu *cpu, int thread)
{
    return (float *)(cpu->scratch + (int64_t)thread * SCRATCH_BYTES);
}

/* Channels of position `position` of lane `lane` of an F32 tensor. */
static inline float *tensor_row(struct tensor t, int64_t lane, int64_t position)
{
    return (float *)tensor_data(t) + lane * t.lane_stride + position * t.row_stride;
}

/* Do a weight's 8-bit codes lie in fours, as int8.h takes them (see store.c)? */
static inline bool in_fours(const struct weight *w)
{
    return w->type == I8 && w->in % 4 == 0;
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The lane of x that serves lane `lane`: map as in op_copy. */
static inline int64_t mapped_lane(struct tensor map, int64_t lane)
{
    return map.base ? ((const int32_t *)tensor_data(map))[lane] : lane;
}

/* What a CPU device of this machine multiplies codes with; NULL: it has nothing. */
const struct int8_unit *cpu_int8(void);

/* store.c */
int64_t cpu_weight_place(const struct device *device, struct weight *w, char *at);
struct error cpu_weight_pack(struct device *device, const struct weight *w, const struct weight_source *source);

channel_rms cpu_channel_rms; /* norm.c */

/* The ops: product.c, attention.c, norm.c, pointwise.c, step.c. */
linear_op cpu_linear;
conv_op cpu_conv;
attention_op cpu_attention;
norm_op cpu_norm;
copy_op cpu_copy;
embed_op cpu_embed;
timestep_op cpu_timestep;
loss_op cpu_loss;
draw_op cpu_draw;
add_noise_op cpu_add_noise;
perturb_op cpu_perturb;
mix_op cpu_mix;
update_op cpu_update;

#endif
