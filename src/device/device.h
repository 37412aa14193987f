/* device/device.h
 *
 * The one interface to compute. A model is written in these ops and never asks which device runs them.
 *
 * Lane = one evaluation (a direction under a picture), or the derivative of one (see tangents, below). Invariant, on
 * which equal bits for any number of ranks rest: what an op writes for a lane depends neither on how many lanes there
 * are, nor on the lane's place among them, nor on threads. An op's blocking and the order of its sums follow from ONE
 * lane's shape.
 *
 * Calls enqueue on one in-order stream. Ops return nothing: the first error sticks to the device until device_wait
 * returns it. Step values (ids, timesteps, rows) are CONTENTS of tensors, never arguments, since a captured graph
 * freezes its arguments.
 *
 * Memory: the tensors of a program's body share one arena. A dry pass finds its size: it records when each tensor is
 * allocated and freed, and ops only check shapes. While a program runs nothing is allocated.
 */
#ifndef ZOODIP_DEVICE_DEVICE_H
#define ZOODIP_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

struct device;
struct buffer;
struct weight;
struct program;

/* [lanes, height, width, channels]; tokens have height 1, vectors height and width 1. A copyable view: it owns nothing.
 * Strides count numbers, not bytes. */
struct tensor {
    struct buffer *base;
    int64_t offset; /* bytes into base */
    enum dtype type;
    int64_t lanes, height, width, channels;
    int64_t lane_stride; /* 0: one copy serves all lanes */
    int64_t row_stride;  /* from one position to the next; >= channels, so that a slice of channels is a view */
};

/* A weight as it lies in the file: [out, in, kh, kw], mmap'ed, maybe unaligned. */
struct weight_source {
    const void *data;
    enum dtype type; /* F32, F16, BF16, I8 with `scale`, or U8: 4-bit codes, two in a byte, with `scale` and `shift` */
    const void *scale;     /* I8: [out]; U8: [groups], see device/quantize.h; NULL: none */
    const void *shift;     /* like scale; U8 only */
    enum dtype scale_type; /* also of shift */
    int64_t cycle;         /* U8, one output that no group divides: number i has scale i % cycle; else 0 */
    const void *bias;      /* [out] or NULL */
    enum dtype bias_type;
    int64_t out, in, kh, kw; /* linear layers: kh = kw = 1; a norm's gain and shift: data and bias of [out], in = 0 */
    bool gated;              /* the output goes through ACT_GEGLU: rows [0, out/2) are values, [out/2, out) gates */
    bool table;              /* [out, in] rows for op_embed: not copied, so `data` must outlive the handle */
    const struct weight_source *next; /* a layer of the same x, whose outputs come after these; NULL: none */
};

enum act { ACT_NONE, ACT_SILU, ACT_GELU, ACT_QUICK_GELU, ACT_GEGLU };

/* What a product does to its result on the way out, in this order: + bias (the weight's), + lane_bias, act, + residual.
 * lane_bias is F32 [lanes, 1, 1, out], residual has y's shape and may be y itself. ACT_GEGLU: y has out / 2 channels,
 * y = value * gelu(gate) with the exact (erf) gelu; ACT_GELU is the exact one too. */
struct epilogue {
    enum act act;
    const struct tensor *lane_bias, *residual;
};

/* A kind of device. A program's main hands over a list of those it was built with (device/kinds.h), so that nothing
 * here refers to one that may be missing. The list ends with a row without a name. */
struct device_kind {
    const char *name; /* "cpu", "cuda" */
    struct error (*open)(struct device **device, int index, int threads);
    const char *(*libraries)(void); /* lines "NAME: version" for --version; NULL: none */
};

/* Opens the kind of that name, or for "auto" the first that works; if that is not the first of the list, device_note
 * says why not. The CPU computes with `threads` threads; of several visible GPUs, number `index` modulo their count is
 * opened. */
struct error device_open(struct device **device, const struct device_kind *kinds, const char *name, int index,
                         int threads);
void device_close(struct device *device);
const char *device_name(const struct device *device);  /* such as "cpu (2 threads, avx2)" */
const char *device_model(const struct device *device); /* results' last bits follow it: "cpu, avx2", "NVIDIA H100" */
const char *device_note(const struct device *device);  /* what the user should know of it, or "" */

/* A simulated GPU: it allocates and counts memory as the CUDA device does but computes nothing; programs run to no
 * effect, and reads leave host memory as it is. A run that is performed on it shows what memory the run would need.
 * of_cpu: its programs' arenas are the CPU's. */
struct error device_simulate(struct device **device, bool of_cpu);
bool device_computes(const struct device *device); /* false: it only plans a GPU's memory */

/* The operands of products on a GPU: pairs of halves (11 + 11 bits, up to 65504; the default) or of bfloats (8 + 8
 * bits, float's range). Call it before any weight is made. The CPU computes in float either way. */
struct error device_set_activations(struct device *device, bool bfloat);

/* In how many bits the products of programs with tangents are: 32 (float; the default), or, where the device can,
 *
 *     16   on a GPU: halves, or bfloats, for primal lanes too
 *     8    tangents with weights of 8 bits as codes, each block of a position's channels with a scale of its own; on the
 *          CPU in attention too. On a GPU all else is in 16
 *
 * Call it before any program is made. */
void device_set_tangents(struct device *device, int bits);

int device_tangents(const struct device *device);
bool device_has_codes(const struct device *device);  /* can it multiply in 8 bits? */
bool device_has_halves(const struct device *device); /* in 16 bits? */

/* Do tangents in so many bits take less time than evaluations, in a network whose weights have `weight_bits` and whose
 * first layers have so many channels? */
bool device_tangents_pay(const struct device *device, int bits, int weight_bits, int64_t channels);

/* Products in codes come in families, one bit each: from now on only those in `families` (at first all) take codes, and
 * the others floats, in programs that exist, too. */
enum { CODES_ATTENTION = 1, CODES_CONV = 2, CODES_LINEAR = 4, CODES_ALL = 7 };
void device_use_codes(struct device *device, int families);
int device_code_families(const struct device *device); /* those that the device has */

/* Outliers: a few channels of a product's x whose tangents are so much larger than the others' that those would drown in
 * codes of one scale. They stay out of the codes and are multiplied in floats. Products with weights of 8 or 4 bits are
 * numbered in the order in which programs with tangents first have them, from device_number_products on: so by the
 * networks alone, if a program of all of them is the next to be made. While `find` is on, products of tangents in floats look at the first
 * tangent: an outlier has 6 times the median of the channels' root mean squares, or more; there are at most
 * OUTLIERS of a product, and a sixteenth of its channels. */
enum { OUTLIERS = 32 };
struct outlier {
    int32_t product, channel;
};
void device_number_products(struct device *device);
void device_find_outliers(struct device *device, bool find);

/* device_outliers: those of all products, by product and channel, *count of them; to may be NULL. device_set_outliers
 * puts others in their place, also for programs made later, whose dry pass refuses a channel that a product does not
 * have. */
void device_outliers(const struct device *device, struct outlier *to, int64_t *count);
struct error device_set_outliers(struct device *device, const struct outlier *from, int64_t count);

/* Memory that the device holds, in bytes, by purpose. Host memory of the CPU's shared store is not included. */
enum memory_kind { MEMORY_WEIGHTS, MEMORY_ACTIVATIONS, MEMORY_STATE, MEMORY_SCRATCH, MEMORY_KINDS };
struct memory_use {
    int64_t now[MEMORY_KINDS], peak[MEMORY_KINDS]; /* peak: as it was when the sum was largest */
    int64_t total, most;
};
struct memory_use device_memory(const struct device *device);
void device_memory_reset_peak(struct device *device); /* the peak is counted from here on */

/* Bytes still free and bytes in use, by the driver's count: ours, the CUDA context, the kernels' code, NCCL's buffers,
 * and whatever other programs hold. INT64_MAX and 0 if there is no such count. */
struct error device_memory_left(struct device *device, int64_t *left, int64_t *used);

/* Weights are packed for the device into one store. device_store_begin with memory NULL starts a measuring pass:
 * weight_new only adds up and device_store_bytes returns the bytes. With memory (64-byte aligned, at least that many
 * bytes) and `fill`, the same calls in the same order pack into it; without `fill`, another rank of the node has packed
 * the bytes already, and only handles are made. The caller owns the memory and frees it after the handles. */
void device_store_begin(struct device *device, void *memory, int64_t bytes, bool fill);
int64_t device_store_bytes(const struct device *device);

/* Handle to a packed weight. bits: how it is kept: 32 (F32), 16 (half, or bfloat if the source is), 8 (int8 codes) or 4
 * (codes in groups). Codes come from a source of the same bits, or are made from floats as optimum-quanto does, see
 * device/quantize.h; a source with codes of other bits is refused. In 4 bits, a single output that no group divides is
 * kept in F32. Compute is in F32. Free with weight_free. */
struct error weight_new(struct device *device, const struct weight_source *source, int bits, struct weight **weight);
void weight_free(struct weight *weight);

/* Copies packed weights to where the device computes: a GPU allocates memory of its own (*uploaded), and `memory` may
 * be freed; the CPU uses them where they are, and *uploaded is NULL. Free *uploaded with device_upload_free, after the
 * handles. */
struct error device_upload(struct device *device, struct weight **weights, int64_t count, const void *memory,
                           int64_t bytes, void **uploaded);
void device_upload_free(struct device *device, void *uploaded, int64_t bytes);

/* Adds to the rows of a table that op_embed may be asked for. A GPU keeps only these; the CPU reads the table where it
 * is. Ids outside the table are ignored. */
struct error device_upload_rows(struct device *device, struct weight *table, const int32_t *ids, int64_t count);

/* A tensor that outlives programs, zeroed, with memory of its own. */
struct error device_alloc_state(struct device *device, enum dtype type, int64_t lanes, int64_t height, int64_t width,
                                int64_t channels, struct tensor *tensor);
void device_free_state(struct device *device, struct tensor *tensor);

/* Only inside a program's body: a dense tensor in the arena, which exists until it is freed. */
struct tensor device_alloc(struct device *device, enum dtype type, int64_t lanes, int64_t height, int64_t width,
                           int64_t channels);
void device_free(struct device *device, struct tensor *tensor);

/* Host memory, zeroed, from and to which a GPU copies without making the host wait. NULL may be freed; after device_wait. */
struct error device_alloc_host(struct device *device, int64_t bytes, void **memory);
void device_free_host(struct device *device, void *memory);

/* A view: a dense tensor in the memory of another, from byte `offset` on. */
struct tensor tensor_within(struct tensor bytes, int64_t offset, enum dtype type, int64_t lanes, int64_t height,
                            int64_t width, int64_t channels);

/* A view: channels [first, first + count) of every position. */
struct tensor tensor_channels(struct tensor x, int64_t first, int64_t count);

/* A view: positions [first, first + count) of every lane, in one row. */
struct tensor tensor_piece(struct tensor x, int64_t first, int64_t count);

/* A view: lanes [first, first + count). */
struct tensor tensor_lanes(struct tensor x, int64_t first, int64_t count);

/* A program is a body that allocates, frees and calls ops in the same order every time. program_new does the dry pass,
 * which checks every shape, and grows the arena. */
struct error program_new(struct device *device, struct error (*body)(void *arg), void *arg, struct program **program);
struct error program_run(struct program *program);
void program_free(struct program *program);           /* freeing the last one frees the arena */
int64_t program_bytes(const struct program *program); /* of arena that it needs */

/* ---- tangents: forward mode ----
 *
 * Between tangents_begin and tangents_end, both in a program's body, lanes [0, primal) of a tensor are evaluations, as
 * they are everywhere else, and each lane after them is a tangent: the derivative of its primal, lane of[lane], along a
 * direction of its own. A tensor that has the primal lanes only does not depend on the word: its tangents are zero, and
 * nothing is computed or stored for them. The networks do not know; each op does, x. being the tangent of x:
 *
 *     op_embed          scale z at the word's places, z being the tangent lane's own `rows`; elsewhere 0
 *     op_linear, _conv  W x. + residual. (no bias, no lane_bias); then a'(u) u., u being what the primal's act is given
 *     op_norm           gain r (x. - mean x. - x^ mean(x^ x.)), r = 1 / sqrt(var + eps), x^ = (x - mean x) r; then a'
 *     op_attention      s. = (q. kt + q k.t) / sqrt(head size), y. = p (s. - mean s.) v + p v., means weighted by p
 *     op_copy           x., zero where x has primal lanes only
 *     op_loss           2 mean(mask (pred - target) pred.) / scale: the slope of its primal's loss along the direction
 *
 * A tangent reads its primal and no other tangent, so the invariant above holds for both. Where an op has more to keep
 * of the primal than its tensors hold, it takes a tensor of its own in both passes.
 */
struct tangents {
    int64_t primal;   /* lanes; there may be no others */
    struct tensor of; /* I32 [1, 1, 1, lanes]: each lane's primal, a primal lane's own number */
    double scale;     /* a power of two about as large as the token table's numbers: halves hold only 6e-8 to 65504 */
};
void tangents_begin(struct device *device, const struct tangents *tangents);
void tangents_end(struct device *device);
bool tangents_on(const struct device *device); /* are we between the two? */

/* Waits for the stream and returns the first error, which is then cleared. */
struct error device_wait(struct device *device);

/* Looking for the op that first makes a number that is not finite. While a device watches, programs run op by op,
 * without exchanging anything with other ranks, and the host looks at what each op of the networks has made, which is
 * slow. device_watch forgets what was seen before. */
struct overflow {
    char op[100];   /* such as "the network's op 17 (op_conv [2, 8, 8, 20])"; "": all numbers were finite */
    double largest; /* of the numbers that it was given; 0: those are gone */
};
void device_watch(struct device *device, bool watch);
struct overflow device_overflow(const struct device *device);

/* Host memory, dense, of the tensor's type -> tensor, in stream order; and back, valid after device_wait. `from` and
 * `to` must stay valid until then. */
void device_write(struct device *device, struct tensor to, const void *from);
void device_read(struct device *device, void *to, struct tensor from);

/* y = x Wt, with epilogue. x [lanes, h, w, in] -> y [lanes, h, w, out]. */
void op_linear(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e);

/* y = conv(x), NHWC. Input row of output row r and tap k: r * stride - pad + k, zero where outside; y's height and
 * width say how many there are. With `up`, x is first enlarged to y's height and width by nearest neighbour
 * (F.interpolate(mode="nearest"), source = floor(target * in / out) in float), without a copy; stride is then 1. */
struct conv {
    int64_t stride, pad;
    bool up;
};
void op_conv(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
             struct epilogue e);

/* groups > 0: group norm over (height, width, channels / groups); 0: layer norm over channels. Then act (NONE or SILU).
 * Biased variance, as in PyTorch. y may be x. */
void op_norm(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups, float eps,
             enum act act);

/* y = softmax(q kt / sqrt(head size)) v per head. q, y [lanes, 1 or h, w, heads * size]; k, v [lanes, 1 or h', w',
 * heads * size]. causal: position i sees keys 0..i. Any head size. */
void op_attention(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                  int64_t heads, bool causal);

/* y (lane l) = x (lane map[l]); map is I32 [1, 1, 1, y.lanes] on the device, or base NULL: lane l from lane l. y and x
 * may be channel slices: this is how skips are joined. */
void op_copy(struct device *device, struct tensor y, struct tensor x, struct tensor map);

/* Token and position embedding with the word being learned: ids I32 [lanes, 1, length, 1]; an id >= first takes row
 * id - first of `rows` F32 [lanes, 1, vectors, dim] (its own lane's: the perturbed embedding), every other the table's.
 * table and positions are weights made as tables with in = dim, out = rows. y F32 [lanes, 1, length, dim]. */
void op_embed(struct device *device, struct tensor y, struct tensor ids, const struct weight *table,
              const struct weight *positions, struct tensor rows, int64_t first);

/* Sinusoidal embedding of timesteps F32 [lanes, 1, 1, 1] -> F32 [lanes, 1, 1, dim]. Equals diffusers'
 * get_timestep_embedding(t, dim, flip_sin_to_cos, downscale_freq_shift = shift). */
void op_timestep(struct device *device, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift);

/* slots F64 [lanes, 1, 1, 1] = mean over one lane of mask (pred - target)^2, summed in double in a fixed order. `target`
 * may have lane_stride 0 or be mapped: lane l is compared with lane map[l] of target (map as in op_copy). mask: a weight
 * for each position of a lane of target, F32 [target's lanes, height, width, 1], or base NULL: 1. */
void op_loss(struct device *device, struct tensor slots, struct tensor pred, struct tensor target, struct tensor map,
             struct tensor mask);

/* ---- several ranks, with a GPU each ----
 *
 * Joined devices exchange data within their streams: op_sum and op_broadcast are part of a program, so that a step
 * needs no host between its evaluations and its update. All ranks run the same ones in the same order. If a device is
 * not joined (the CPU, a GPU that ranks share, a single rank), both do nothing, and the host exchanges the data instead
 * (cluster/comm.h).
 *
 * A rank that dies leaves the others waiting in their streams. device_wait returns NCCL's errors, and gives up after
 * `limit` seconds, or when another rank has, with the error of `missing`; after that nothing runs on this device any
 * more, and the other ranks must be ended (comm_abort).
 */
struct device_link {
    int rank, size;
    double limit; /* seconds to wait for the others, when joining and later */
    struct error (*broadcast)(void *arg, void *data, int64_t bytes); /* rank 0's bytes, to all */
    bool (*gave_up)(void *arg);                                      /* has another rank stopped waiting? */
    struct error (*missing)(void *arg);                              /* names the ranks that have not arrived */
    void *arg;
};

/* Collective, outside of programs. */
struct error device_join(struct device *device, const struct device_link *link);
bool device_joined(const struct device *device);
const char *device_joined_by(const struct device *device); /* such as "NCCL 2.20.5"; "" if not joined */

/* device_can_join: whether this device can be joined, provided that the ranks' devices have different identities.
 * device_identity: a number that is the same in every process for one GPU, below 2^53 so that a double holds it; 0 for
 * a device that is not a GPU. */
bool device_can_join(const struct device *device);
int64_t device_identity(const struct device *device);

/* slots F64, dense, in place: the sum over ranks. Exact where all but one rank hold zeros. */
void op_sum(struct device *device, struct tensor slots);

/* Sends a dense tensor's contents from rank `root` to all. */
void op_broadcast(struct device *device, struct tensor t, int root);

/* ---- a training step (arithmetic: device/step_core.h) ---- */

/* y F32, lane l = standard normal numbers 0, 1, ... of stream `stream` + l (base/rng.h) at the step that `step`
 * I64 [1, 1, 1, 1] holds. y is dense. */
void op_draw(struct device *device, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream);

/* Latents with noise, the network's targets and its timesteps F32 [pictures, 1, 1, 1], from a posterior sample of each.
 * noisy and target F32 [pictures, height, width, channels], all tensors dense. */
struct add_noise {
    struct tensor moments;          /* F32 [rows, height, width, 2 channels]: a position's means, then its deviations */
    struct tensor posterior, noise; /* F32 [batch, height, width, channels]: normals; posterior.base may be NULL: the
                                       sample is the mean */
    struct tensor levels;           /* F32 [timesteps, 1, 1, 2]: sqrt(abar), sqrt(1 - abar) */
    struct tensor choice;           /* I32 [pictures, 1, 1, 3]: row of moments, timestep, index in the batch */
    float scaling;
    bool velocity; /* target: v, or the noise */
};
void op_add_noise(struct device *device, struct tensor noisy, struct tensor target, struct tensor timesteps,
                  const struct add_noise *n);

/* rows F32 [lanes, 1, vectors, width] = embedding [1, 1, vectors, width] + eps z_i where which I32 [1, 1, 1, lanes]
 * holds i = 1..n, - eps z_i where it holds -i, the embedding itself where 0. directions F32 [n, 1, vectors, width]. All
 * dense. */
void op_perturb(struct device *device, struct tensor rows, struct tensor embedding, struct tensor directions,
                struct tensor which, double eps);

/* y = weights basis, for each place of weights: F32 weights [lanes, 1, places, rank], basis [rank, 1, 1, dim], and y
 * with lanes of places x dim numbers, all dense. Summed in double, in the order of the basis. */
void op_mix(struct device *device, struct tensor y, struct tensor weights, struct tensor basis);

/* One update from what all lanes found: estimate the gradient, remove its part along the removed directions, do Adam's
 * step. All dense, F32 unless said otherwise.
 *
 * With a basis U the directions are Ut w, w being op_mix's weights, and Adam lives in coordinates: y is the gradient
 * in w's, or, where directions are removed, U g for g = Ut y without its part along them; then Ut (Adam's step for y). */
struct update {
    struct tensor embedding, m, v; /* [1, 1, vectors, width], in place; with a basis m and v are [1, 1, 1, rank] */
    struct tensor gradient;        /* out: F64 [1, 1, vectors, width] */
    struct tensor basis;           /* U [rank, 1, 1, vectors width], orthonormal; or base NULL */
    struct tensor coordinates;     /* with it F64 [1, 1, 1, rank], for the op's own use */
    struct tensor slots;           /* F64 [(sides n + 1) batch or more, 1, 1, 1], as struct step_slots has them */
    struct tensor directions;      /* [n, 1, vectors, width], or n of its own for each picture: [batch n, ..]; with
                                      a basis their weights [.., 1, 1, rank] */
    struct tensor removed;         /* [rows, 1, vectors, width], orthonormal: directions that the gradient loses */
    struct tensor removed_rows;    /* I32 [1, 1, 1, 1]: how many of these rows are in use */
    struct tensor rates;           /* F64 [1, 1, 1, 3]: the estimate's scale, -lr / (1 - beta1^t), sqrt(1 - beta2^t) */
    int64_t n, batch, sides;       /* sides is 1 with tangents */
    bool tangents;                 /* slots hold slopes, not losses at a distance of eps */
    double eps;
    float weight1, weight2, beta2, adam_eps; /* 1 - beta1, 1 - beta2 */
};
void op_update(struct device *device, const struct update *u);

#endif
