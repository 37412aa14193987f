#include "model/blocks.h"

void resnet_load(struct resnet *r, struct weights *w, int64_t in, int64_t out, int64_t time_dim, int64_t groups,
                 float eps, const char *name)
{
    *r = (struct resnet){.in = in, .out = out, .groups = groups, .eps = eps};
    r->norm1 = weights_norm(w, in, "%s.norm1", name);
    r->conv1 = weights_conv(w, out, in, 3, "%s.conv1", name);
    if (time_dim)
        r->time = weights_linear(w, out, time_dim, true, "%s.time_emb_proj", name);
    r->norm2 = weights_norm(w, out, "%s.norm2", name);
    r->conv2 = weights_conv(w, out, out, 3, "%s.conv2", name);
    if (in != out)
        r->shortcut = weights_conv(w, out, in, 1, "%s.conv_shortcut", name);
}

struct tensor block_alloc(struct device *d, struct tensor x, int64_t channels)
{
    return device_alloc(d, F32, x.lanes, x.height, x.width, channels);
}

void block_replace(struct device *d, struct tensor *x, struct tensor next)
{
    device_free(d, x);
    *x = next;
}

struct tensor block_piece(const struct device *d, struct tensor x, int64_t done, int64_t inner)
{
    enum { MOST_INNER = 1310720 }; /* 64 x 64 positions of Stable Diffusion's 320 channels are four pieces */
    int64_t positions = x.height * x.width, left = positions - done, piece = positions;
    if (tangents_on(d)) {
        int64_t room = MOST_INNER / inner;
        piece = (positions + 1) / 2;
        piece = room > 0 && room < piece ? room : piece;
    }
    return tensor_piece(x, done, piece < left ? piece : left);
}

struct tensor block_conv(struct device *d, const struct weight *w, struct tensor x, int64_t height, int64_t width,
                         int64_t out, struct conv c)
{
    struct tensor y = device_alloc(d, F32, x.lanes, height, width, out);
    op_conv(d, y, x, w, c, (struct epilogue){0});
    return y;
}

struct tensor block_linear(struct device *d, const struct weight *w, struct tensor x, int64_t out)
{
    struct tensor y = block_alloc(d, x, out);
    op_linear(d, y, x, w, (struct epilogue){0});
    return y;
}

void block_self_attention(struct device *d, const struct weight *qkv, struct tensor x, int64_t heads, bool causal)
{
    int64_t c = x.channels;
    struct tensor all = block_linear(d, qkv, x, 3 * c);
    op_attention(d, x, tensor_channels(all, 0, c), tensor_channels(all, c, c), tensor_channels(all, 2 * c, c), heads,
                 causal);
    device_free(d, &all);
}

static const struct conv same = {.stride = 1, .pad = 1};

/* Norm and silu of x, first convolution, the timestep added to every position; norm and silu again. h [like x] is room
 * for the first norm and may be x; it is freed. */
static struct tensor first_half(struct device *d, const struct resnet *r, struct tensor x, struct tensor h,
                                const struct tensor *time)
{
    op_norm(d, h, x, r->norm1, r->groups, r->eps, ACT_SILU);
    struct tensor y = block_alloc(d, x, r->out);
    if (time) {
        struct tensor shift = block_linear(d, r->time, *time, r->out);
        op_conv(d, y, h, r->conv1, same, (struct epilogue){.lane_bias = &shift});
        device_free(d, &shift);
    } else {
        op_conv(d, y, h, r->conv1, same, (struct epilogue){0});
    }
    device_free(d, &h);
    op_norm(d, y, y, r->norm2, r->groups, r->eps, ACT_SILU);
    return y;
}

/* The shortcut around the convolutions. */
static struct tensor shortcut(struct device *d, const struct resnet *r, struct tensor x)
{
    return block_conv(d, r->shortcut, x, x.height, x.width, r->out, (struct conv){.stride = 1});
}

struct tensor resnet_forward(struct device *d, const struct resnet *r, struct tensor x, const struct tensor *time)
{
    struct tensor y = first_half(d, r, x, block_alloc(d, x, r->in), time);
    struct tensor out = r->shortcut ? shortcut(d, r, x) : block_alloc(d, x, r->out);
    op_conv(d, out, y, r->conv2, same, (struct epilogue){.residual = r->shortcut ? &out : &x});
    device_free(d, &y);
    return out;
}

void resnet_in_place(struct device *d, const struct resnet *r, struct tensor *x, const struct tensor *time)
{
    if (!r->shortcut) {
        struct tensor y = first_half(d, r, *x, block_alloc(d, *x, r->in), time);
        op_conv(d, *x, y, r->conv2, same, (struct epilogue){.residual = x});
        device_free(d, &y);
        return;
    }
    struct tensor out = shortcut(d, r, *x), y = first_half(d, r, *x, *x, time);
    op_conv(d, out, y, r->conv2, same, (struct epilogue){.residual = &out});
    device_free(d, &y);
    *x = out;
}
