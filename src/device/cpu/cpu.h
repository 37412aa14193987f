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
#include "device/cpu/kernels.h"

enum { SCRATCH_BYTES = 1 << 20 }; /* for each thread */

struct cpu {
    struct device device;
    struct pool *pool;
    const struct kernels *kernels;
    char *scratch; /* [threads][SCRATCH_BYTES] */
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

static inline int64_t tensor_positions(struct tensor t)
{
    return t.height * t.width;
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

/* store.c */
int64_t cpu_weight_place(const struct device *device, struct weight *w, char *at);
struct error cpu_weight_pack(struct device *device, const struct weight *w, const struct weight_source *source);

/* product.c */
void cpu_linear(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e);
void cpu_conv(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
              struct epilogue e);

/* attention.c */
void cpu_attention(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                   int64_t heads, bool causal);

/* norm.c */
void cpu_norm(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
              float eps, enum act act);

/* pointwise.c */
void cpu_act(struct device *device, struct tensor y, struct tensor x, enum act act);
void cpu_copy(struct device *device, struct tensor y, struct tensor x, struct tensor map);
void cpu_embed(struct device *device, struct tensor y, struct tensor ids, const struct weight *table,
               const struct weight *positions, struct tensor rows, int64_t first);
void cpu_timestep(struct device *device, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift);
void cpu_loss(struct device *device, struct tensor slots, struct tensor pred, struct tensor target, struct tensor map);

/* step.c */
void cpu_draw(struct device *device, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream);
void cpu_noise(struct device *device, struct tensor noisy, struct tensor target, struct tensor timesteps,
               const struct noising *n);
void cpu_perturb(struct device *device, struct tensor rows, struct tensor embedding, struct tensor directions,
                 struct tensor which, double eps);
void cpu_update(struct device *device, const struct update *u);

#endif
