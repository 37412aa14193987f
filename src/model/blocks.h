/* model/blocks.h
 *
 * What the networks are built from. Everything is NHWC, so a picture [lanes, h, w, channels] and its tokens [lanes, h
 * w, channels] are the same bytes.
 */
#ifndef ZOODIP_MODEL_BLOCKS_H
#define ZOODIP_MODEL_BLOCKS_H

#include "device/device.h"
#include "model/weights.h"

/* diffusers ResnetBlock2D, time_embedding_norm "default":
 *
 *     x ─ norm1 ─ silu ─ conv1 ─(+ time)─ norm2 ─ silu ─ conv2 ─(+)─ y
 *     └──────────────── shortcut (1 x 1, where in != out) ────────┘
 */
struct resnet {
    int64_t in, out, groups;
    float eps;
    const struct weight *norm1, *conv1, *time, *norm2, *conv2, *shortcut;
};

/* time_dim 0: a block without time (the VAE's). name is the block's, such as "down_blocks.0.resnets.1". */
void resnet_load(struct resnet *r, struct weights *w, int64_t in, int64_t out, int64_t time_dim, int64_t groups,
                 float eps, const char *name);

/* x [lanes, h, w, in] -> a new tensor [lanes, h, w, out]; x is not changed. time [lanes, 1, 1, time_dim] is
 * silu(embedding); NULL for a block without time. */
struct tensor resnet_forward(struct device *d, const struct resnet *r, struct tensor x, const struct tensor *time);

/* The same for an x that is no longer needed: *x becomes the result, which takes less memory. */
void resnet_in_place(struct device *d, const struct resnet *r, struct tensor *x, const struct tensor *time);

/* A new tensor like x with `channels` channels. */
struct tensor block_alloc(struct device *d, struct tensor x, int64_t channels);

/* *x becomes `next`; what it was is freed. */
void block_replace(struct device *d, struct tensor *x, struct tensor next);

/* The piece of x that a feed-forward with `inner` channels inside takes next, as a row of positions, when `done` of
 * them are done. Without tangents that is all of x. With them, the inner numbers and the factors that op_linear makes
 * of each of the primals' would be the network's largest tensors. So a piece is at most half of the positions, which
 * needs no more than the whole does without tangents, and at most 1.3 million inner numbers of a lane. */
struct tensor block_piece(const struct device *d, struct tensor x, int64_t done, int64_t inner);

/* Into a new tensor, with only a bias: a linear layer, and a convolution to the given size. */
struct tensor block_linear(struct device *d, const struct weight *w, struct tensor x, int64_t out);
struct tensor block_conv(struct device *d, const struct weight *w, struct tensor x, int64_t height, int64_t width,
                         int64_t out, struct conv c);

/* x becomes what the attention of its positions to each other gives; qkv: the layers of queries, keys and values,
 * joined. */
void block_self_attention(struct device *d, const struct weight *qkv, struct tensor x, int64_t heads, bool causal);

#endif
