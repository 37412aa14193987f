/* device/backend.h
 *
 * What stands behind device.h: the part that all devices share (the arena, the store, checks of shapes, the first
 * error), and the table of functions that each device fills in. Only files of devices include this.
 *
 * Invariant: a function of the table is called with shapes that were checked, and never in a dry pass.
 */
#ifndef ZOODIP_DEVICE_BACKEND_H
#define ZOODIP_DEVICE_BACKEND_H

#include "device/device.h"

/* Memory that tensors point into. The arena's memory may move when a program is made, which is why tensors hold this.
 */
struct buffer {
    void *memory;
    int64_t bytes;
};

/* A packed weight: its shape, and where its parts lie on the device. */
struct weight {
    int64_t out, in, kh, kw;
    bool gated, table, norm;
    enum dtype type; /* kept as F32, F16, BF16 or I8 (norms: F32; tables: the source's) */
    bool has_bias;
    const void *data;          /* NULL in a measuring pass */
    const float *scale, *bias; /* in the order of the packed columns; NULL: none */
};

struct device_ops {
    void (*close)(struct device *device);
    struct error (*wait)(struct device *device);
    struct error (*memory)(struct device *device, int64_t bytes, void **memory); /* zeroed */
    void (*memory_free)(struct device *device, void *memory);
    /* Sets the pointers of w for parts that begin at `at` (may be NULL), gives the bytes. */
    int64_t (*weight_place)(const struct device *device, struct weight *w, char *at);
    struct error (*weight_pack)(struct device *device, const struct weight *w, const struct weight_source *source);
    void (*write)(struct device *device, struct tensor to, const void *from);
    void (*read)(struct device *device, void *to, struct tensor from);
    void (*linear)(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e);
    void (*conv)(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
                 struct epilogue e);
    void (*norm)(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
                 float eps, enum act act);
    void (*attention)(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                      int64_t heads, bool causal);
    void (*act)(struct device *device, struct tensor y, struct tensor x, enum act act);
    void (*copy)(struct device *device, struct tensor y, struct tensor x, struct tensor map);
    void (*embed)(struct device *device, struct tensor y, struct tensor ids, const struct weight *table,
                  const struct weight *positions, struct tensor rows, int64_t first);
    void (*timestep)(struct device *device, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift);
    void (*loss)(struct device *device, struct tensor slots, struct tensor pred, struct tensor target,
                 struct tensor map);
};

/* One tensor that a program takes. */
struct span {
    int64_t offset, bytes;
};

struct program {
    struct device *device;
    struct error (*body)(void *arg);
    void *arg;
    struct span *takes; /* [take_count], in the order of the takes: a run follows them */
    int64_t take_count, take_room;
    int64_t bytes; /* the arena it needs */
};

/* Where a dry pass stands: the spans in use, by offset. */
struct plan {
    struct span *used;
    int64_t used_count, used_room;
};

/* The head of every device. */
struct device {
    const struct device_ops *ops;
    char name[96];
    struct error error; /* the first since the last wait */
    struct buffer arena;
    int64_t programs; /* alive; the arena goes with the last */
    char *store;      /* NULL while measuring */
    int64_t store_bytes, stored;
    bool fill;
    struct plan plan;
    struct program *program; /* the one being made or run */
    int64_t cursor;          /* its takes so far */
    bool dry;
};

/* Keeps the error if it is the first. */
void device_fail(struct device *device, struct error e);

/* device/cpu/cpu.c */
struct error cpu_open(struct device **device, int threads);

/* Address of a tensor's first number. */
static inline void *tensor_data(struct tensor t)
{
    return (char *)t.base->memory + t.offset;
}

/* device/shapes.c: what each op asks of its tensors. */
struct error check_linear(struct tensor y, struct tensor x, const struct weight *w, struct epilogue e);
struct error check_conv(struct tensor y, struct tensor x, const struct weight *w, struct conv c, struct epilogue e);
struct error check_norm(struct tensor y, struct tensor x, const struct weight *w, int64_t groups, enum act act);
struct error check_attention(struct tensor y, struct tensor q, struct tensor k, struct tensor v, int64_t heads,
                             bool causal);
struct error check_act(struct tensor y, struct tensor x, enum act act);
struct error check_copy(struct tensor y, struct tensor x, struct tensor map);
struct error check_embed(struct tensor y, struct tensor ids, const struct weight *table, const struct weight *positions,
                         struct tensor rows);
struct error check_timestep(struct tensor y, struct tensor t);
struct error check_loss(struct tensor slots, struct tensor pred, struct tensor target, struct tensor map);

#endif
