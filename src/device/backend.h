/* device/backend.h
 *
 * The other side of device.h, for files of devices only: what all devices share (the arena, the store, the first
 * error), and the table of functions that each device fills in.
 *
 * Invariant: functions of the table are called with checked shapes only, and never in a dry pass.
 */
#ifndef ZOODIP_DEVICE_BACKEND_H
#define ZOODIP_DEVICE_BACKEND_H

#include "device/device.h"

/* Memory that tensors point into. The arena's memory may move when a program is made, which is why tensors hold a
 * buffer, not an address. */
struct buffer {
    void *memory;
    int64_t bytes;
};

/* A packed weight: its shape, and where its parts lie on the device. */
struct weight {
    int64_t out, in, kh, kw;
    bool gated, table, norm;
    bool bfloat;     /* the GPU's: numbers of 16 and 32 bits are kept as bfloats */
    enum dtype type; /* kept as F32, F16, BF16, I8, or U8 for 4 bits (norms: F32; tables: the source's) */
    int64_t group;   /* 4 bits: numbers of a row, in the file's order, that share a scale and a shift; else 0 */
    bool has_bias;
    const void *data;          /* NULL in a measuring pass */
    const float *scale, *bias; /* in the order of the packed columns; NULL: none */
    const float *shift;        /* the CPU's, 4 bits: as scale, each [panel][groups of a row][column of the panel] */
    const uint32_t *groups;    /* the GPU's, 4 bits: [packed rows][groups of a row], see device/tiles.h */
    const float *rows;         /* a table on a GPU: the rows present, F32 [.., in] (device_upload_rows) */
    const int32_t *place;      /* [out]: each row's place among them, -1 for an absent row */
    struct device *device;     /* a table's memory on the GPU: place, then rows */
    void *resident;
    int64_t resident_bytes, resident_rows;
    int32_t *host_place; /* place, on the host */
};

/* The signatures of the ops, which device.h describes: a device declares its own as `copy_op cpu_copy;`. */
typedef void linear_op(struct device *device, struct tensor y, struct tensor x, const struct weight *w,
                       struct epilogue e);
typedef void conv_op(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
                     struct epilogue e);
/* Into how many blocks of channels, with a scale each, the tangents' x is encoded for a product of 8-bit codes; 0: the
 * product takes floats. conv NULL: a linear layer. */
typedef int64_t code_blocks(const struct device *device, struct tensor y, const struct weight *w,
                            const struct conv *conv);
code_blocks cpu_code_blocks; /* the CPU's, which a simulated device asks too */
/* Bytes of workspace that a product takes from the arena, in a program with tangents (device/gpu.h); coded: are its
 * tangents' codes kept there, too? */
typedef int64_t product_work(const struct device *device, struct tensor y, struct tensor x, const struct weight *w,
                             bool coded);
typedef int64_t attention_work(const struct device *device, struct tensor k, int64_t heads); /* likewise */
void cpu_describe_codes(struct device *device); /* sets code_families and tangents_pay_from, likewise */
/* rms [channels] of the tangent x, lane `lane`, over its positions. */
typedef void channel_rms(struct device *device, double *rms, struct tensor x, int64_t lane);
typedef void norm_op(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
                     float eps, enum act act);
typedef void attention_op(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                          int64_t heads, bool causal);
typedef void copy_op(struct device *device, struct tensor y, struct tensor x, struct tensor map);
typedef void embed_op(struct device *device, struct tensor y, struct tensor ids, const struct weight *table,
                      const struct weight *positions, struct tensor rows, int64_t first);
typedef void timestep_op(struct device *device, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift);
typedef void loss_op(struct device *device, struct tensor slots, struct tensor pred, struct tensor target,
                     struct tensor map, struct tensor mask);
typedef void draw_op(struct device *device, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream);
typedef void add_noise_op(struct device *device, struct tensor noisy, struct tensor target, struct tensor timesteps,
                          const struct add_noise *n);
typedef void perturb_op(struct device *device, struct tensor rows, struct tensor embedding, struct tensor directions,
                        struct tensor which, double eps);
typedef void mix_op(struct device *device, struct tensor y, struct tensor weights, struct tensor basis);
typedef void update_op(struct device *device, const struct update *u);
typedef void sum_op(struct device *device, struct tensor slots);
typedef void broadcast_op(struct device *device, struct tensor t, int root);

struct device_ops {
    void (*close)(struct device *device);
    struct error (*wait)(struct device *device);
    struct error (*alloc)(struct device *device, int64_t bytes, void **memory); /* zeroed */
    void (*free)(struct device *device, void *memory);
    struct error (*alloc_host)(struct device *device, int64_t bytes, void **memory); /* both NULL: any memory does */
    void (*free_host)(struct device *device, void *memory);
    struct error (*memory_left)(struct device *device, int64_t *left, int64_t *used); /* NULL: not counted */
    /* Copies host memory to the device, at once. NULL: weights are used where they were packed. */
    struct error (*upload)(struct device *device, void *to, const void *from, int64_t bytes);
    /* Runs a program whose arena is allocated; program_pass calls the body. NULL: calling the body is the run. */
    struct error (*run)(struct program *program);
    void (*free_compiled)(struct program *program);                      /* NULL: programs have no compiled form */
    struct error (*set_activations)(struct device *device, bool bfloat); /* NULL: float only */
    void (*set_tangents)(struct device *device, int bits);               /* NULL: nothing to be done */
    /* Sets the pointers of w for parts that begin at `at` (may be NULL); returns the bytes. */
    int64_t (*weight_place)(const struct device *device, struct weight *w, char *at);
    /* Not called for norms and tables. */
    struct error (*weight_pack)(struct device *device, const struct weight *w, const struct weight_source *source);
    void (*write)(struct device *device, struct tensor to, const void *from);
    void (*read)(struct device *device, void *to, struct tensor from);
    code_blocks *code_blocks;       /* NULL: none */
    product_work *product_work;     /* NULL: products take no workspace but codes and code_rows */
    attention_work *attention_work; /* NULL: none */
    channel_rms *channel_rms;
    linear_op *linear;
    conv_op *conv;
    norm_op *norm;
    attention_op *attention;
    copy_op *copy;
    embed_op *embed;
    timestep_op *timestep;
    loss_op *loss;
    draw_op *draw;
    add_noise_op *add_noise;
    perturb_op *perturb;
    mix_op *mix;
    update_op *update;
    /* All three NULL: it cannot be joined. sum and share are called only if it is. */
    struct error (*join)(struct device *device, const struct device_link *link);
    sum_op *sum;
    broadcast_op *broadcast;
};

/* One tensor of a program's body: its place in the arena, and when it lives, by device->clock. */
struct span {
    int64_t offset, bytes;
    int64_t allocated, freed;
};

/* A product with weights of 8 or 4 bits, whose tangents may be in codes, and which of its channels stay out of them. */
struct coded {
    const struct weight *weight;
    bool known; /* by device_find_outliers or device_set_outliers */
    int64_t count;
    int32_t outliers[OUTLIERS]; /* rising */
};

struct program {
    struct device *device;
    struct error (*body)(void *arg);
    void *arg;
    struct span *spans; /* [span_count], in the order of allocation, which a run repeats */
    int64_t span_count, span_room;
    int64_t bytes;      /* of arena that it needs */
    void *compiled;     /* the device's own form of it, such as a graph */
    int64_t generation; /* device->generation when it was compiled */
};

/* What every device begins with: first what its own files use, then what only src/device/ may touch. */
struct device {
    const struct device_ops *ops;
    char name[96], model[72];
    int64_t identity;   /* see device_identity */
    char joined_by[40]; /* see device_joined_by; set by ops->join */
    struct error error; /* the first since the last device_wait */
    int64_t generation; /* grows whenever memory that programs point into has moved, or ops do something else */

    char note[300];
    bool joined;
    struct memory_use use;
    char *store; /* NULL while measuring */
    int64_t store_bytes, store_used;
    bool fill;
    struct buffer arena;
    int64_t programs;               /* in existence; the arena is freed with the last */
    struct tangents tangents;       /* of.base is NULL where there are none */
    int tangent_bits;               /* 8, or any other for floats: see device_set_tangents */
    struct tensor factors;          /* of the op that is being run, see take_factors in ops.c */
    struct tensor codes, code_rows; /* likewise, see take_codes; used if the op encodes */
    struct tensor work;             /* likewise, see take_bytes: U8 [1, 1, 1, bytes]; base NULL: none */
    int code_families;              /* that it can multiply in codes; set by open, as is */
    bool has_halves;                /* see device_has_halves */
    int64_t tangents_pay_from;      /* the CPU's: channels, see device_tangents_pay; 0: never. Set by open */
    bool encodes;                   /* the op does take codes */
    const struct coded *coded;      /* likewise: the op's outliers */
    int no_codes;                   /* families that take floats all the same (device_use_codes) */
    bool finds_outliers;
    bool watches;             /* see device_watch */
    int64_t watched;          /* ops so far */
    struct overflow overflow; /* the first */
    struct coded *products;   /* [product_count] */
    struct outlier *outliers; /* [outlier_count]: as device_set_outliers got them, for products that are new later */
    int64_t outlier_count;
    int64_t product_count, product_room;
    struct program *program; /* the one being made or run */
    int64_t cursor;          /* its tensors so far */
    int64_t clock;           /* a dry pass's allocations and frees so far */
    bool dry;
};

enum { NORM_CHANNELS = 32768 }; /* the most that op_norm takes */

/* Keeps the error if it is the first. */
void device_fail(struct device *device, struct error e);

/* A GPU's scratch: partial sums of norms, what a kernel found wrong with contents, and partial sums of products, with a
 * counter for each of their tiles. */
enum {
    GPU_MOMENTS = 1 << 16, /* of 16 bytes */
    GPU_CONTENT = 128,     /* bytes */
    GPU_PARTS = 6 << 20,   /* bytes */
    GPU_TILES = 512,
    GPU_SCRATCH = GPU_MOMENTS * 16 + GPU_CONTENT + GPU_PARTS + GPU_TILES * 4
};

/* device/outliers.c: the entry of a product in codes, which is made when there is none yet; NULL after an error. And with
 * device_find_outliers its outliers, from lane `lane` of x, unless they are known. */
struct coded *coded_product(struct device *device, const struct weight *w);
void find_outliers(struct device *device, struct coded *product, struct tensor x, int64_t lane);

/* device/watch.c: looks at y, which the op has made from x, if the device watches; not in a dry pass. */
void watch_op(struct device *device, const char *op, struct tensor y, struct tensor x);

/* device/layout.c: after the dry pass, places all tensors and says how large an arena they need. */
struct error layout_make(struct program *program);

/* Runs the body again, with its ops executed. */
struct error program_pass(struct program *program);

/* A device's memory, counted; NULL may be freed. */
struct error device_memory_alloc(struct device *device, enum memory_kind kind, int64_t bytes, void **memory);
void device_memory_free(struct device *device, enum memory_kind kind, void *memory, int64_t bytes);

static inline int64_t round_up(int64_t x, int64_t to)
{
    return (x + to - 1) / to * to;
}

/* Terms of one output's sum. */
static inline int64_t weight_depth(const struct weight *w)
{
    return w->in * w->kh * w->kw;
}

/* How many of a tensor's lanes are evaluations: they come first. */
static inline int64_t primal_lanes(const struct device *device, struct tensor t)
{
    return device->tangents.of.base && device->tangents.primal < t.lanes ? device->tangents.primal : t.lanes;
}

/* Does t have only the primal ones of y's lanes, so that its tangents are zero? */
static inline bool only_primal(const struct device *device, struct tensor t, struct tensor y)
{
    return t.lanes < y.lanes && t.lanes == primal_lanes(device, y);
}

static inline int64_t tensor_positions(struct tensor t)
{
    return t.height * t.width;
}

/* Address of a tensor's first number. */
static inline void *tensor_data(struct tensor t)
{
    return (char *)t.base->memory + t.offset;
}

#endif
