#include "model/unet.h"

#include <stdio.h>

#include "base/memory.h"
#include "model/blocks.h"

enum { SKIPS = UNET_BLOCKS * (UNET_LAYERS + 1) + 1 };

/* Fixed by Transformer2DModel and BasicTransformerBlock. */
static const float transformer_eps = 1e-6f, layer_norm_eps = 1e-5f;

/* BasicTransformerBlock: norm ─ self-attention ─(+)─ norm ─ cross-attention ─(+)─ norm ─ geglu ─ linear ─(+) */
struct transformer_block {
    const struct weight *norm1, *qkv1, *out1;
    const struct weight *norm2, *q2, *kv2, *out2;
    const struct weight *norm3, *gated, *down;
};

/* Transformer2DModel: norm ─ proj_in ─ blocks ─ proj_out ─(+) */
struct transformer {
    int64_t channels, heads, depth, groups;
    const struct weight *norm, *proj_in, *proj_out;
    struct transformer_block blocks[UNET_DEPTH];
};

struct unet_block {
    int64_t layers;
    bool cross;
    struct resnet resnets[UNET_LAYERS];
    struct transformer transformers[UNET_LAYERS];
    const struct weight *resample; /* down or up; NULL in the last block */
};

struct unet_layers {
    const struct weight *time1, *time2, *conv_in, *norm_out, *conv_out;
    struct unet_block down[UNET_BLOCKS], up[UNET_BLOCKS];
    struct resnet mid_first, mid_second;
    struct transformer mid;
};

/* -------------------------------------------------------------------------------- loading */

static void load_transformer_block(struct transformer_block *b, struct weights *w, int64_t channels, int64_t cross_dim,
                                   const char *name)
{
    static const char *const all[] = {".to_q", ".to_k", ".to_v", NULL}, *const of_the_text[] = {".to_k", ".to_v", NULL};
    int64_t c = channels, inner = 4 * channels;
    b->norm1 = weights_norm(w, c, "%s.norm1", name);
    b->qkv1 = weights_joined(w, c, c, false, all, "%s.attn1", name);
    b->out1 = weights_linear(w, c, c, true, "%s.attn1.to_out.0", name);
    b->norm2 = weights_norm(w, c, "%s.norm2", name);
    b->q2 = weights_linear(w, c, c, false, "%s.attn2.to_q", name);
    b->kv2 = weights_joined(w, c, cross_dim, false, of_the_text, "%s.attn2", name);
    b->out2 = weights_linear(w, c, c, true, "%s.attn2.to_out.0", name);
    b->norm3 = weights_norm(w, c, "%s.norm3", name);
    b->gated = weights_gated(w, 2 * inner, c, "%s.ff.net.0.proj", name);
    b->down = weights_linear(w, c, inner, true, "%s.ff.net.2", name);
}

static void load_transformer(struct transformer *t, struct weights *w, const struct unet_config *c, int64_t block,
                             const char *name)
{
    *t = (struct transformer){
        .channels = c->channels[block], .heads = c->heads[block], .depth = c->depth[block], .groups = c->groups};
    t->norm = weights_norm(w, t->channels, "%s.norm", name);
    t->proj_in = weights_linear(w, t->channels, t->channels, true, "%s.proj_in", name);
    for (int64_t i = 0; i < t->depth; i++) {
        char full[128];
        snprintf(full, sizeof full, "%s.transformer_blocks.%lld", name, (long long)i);
        load_transformer_block(&t->blocks[i], w, t->channels, c->cross_dim, full);
    }
    t->proj_out = weights_linear(w, t->channels, t->channels, true, "%s.proj_out", name);
}

/* Resnet j of a block has in[j] input channels; `block` is the index of the block's channels in the config. */
static void load_block(struct unet_block *b, struct weights *w, const struct unet_config *c, int64_t block,
                       int64_t layers, const int64_t *in, bool cross, const char *name)
{
    b->layers = layers;
    b->cross = cross;
    for (int64_t j = 0; j < layers; j++) {
        char full[96];
        snprintf(full, sizeof full, "%s.resnets.%lld", name, (long long)j);
        resnet_load(&b->resnets[j], w, in[j], c->channels[block], c->time_dim, c->groups, c->eps, full);
        snprintf(full, sizeof full, "%s.attentions.%lld", name, (long long)j);
        if (cross)
            load_transformer(&b->transformers[j], w, c, block, full);
    }
}

static void load_down(struct unet_layers *l, struct weights *w, const struct unet_config *c)
{
    for (int64_t i = 0; i < c->blocks; i++) {
        int64_t in[UNET_LAYERS];
        for (int64_t j = 0; j < c->layers[i]; j++)
            in[j] = j ? c->channels[i] : c->channels[i ? i - 1 : 0];
        char name[64];
        snprintf(name, sizeof name, "down_blocks.%lld", (long long)i);
        load_block(&l->down[i], w, c, i, c->layers[i], in, c->down_cross[i], name);
        if (i + 1 < c->blocks)
            l->down[i].resample = weights_conv(w, c->channels[i], c->channels[i], 3, "%s.downsamplers.0.conv", name);
    }
}

/* Each resnet of an up block is given the output of the block below (or of the resnet before) and one skip. The skips
 * of down block k are its input and its layers' outputs, and they are used last to first. */
static void load_up(struct unet_layers *l, struct weights *w, const struct unet_config *c)
{
    for (int64_t i = 0; i < c->blocks; i++) {
        int64_t k = c->blocks - 1 - i, layers = c->layers[k] + 1, in[UNET_LAYERS];
        for (int64_t j = 0; j < layers; j++) {
            int64_t below = j ? c->channels[k] : c->channels[i ? k + 1 : k];
            int64_t skip = j + 1 < layers ? c->channels[k] : c->channels[k ? k - 1 : 0];
            in[j] = below + skip;
        }
        char name[64];
        snprintf(name, sizeof name, "up_blocks.%lld", (long long)i);
        load_block(&l->up[i], w, c, k, layers, in, c->up_cross[i], name);
        if (i + 1 < c->blocks)
            l->up[i].resample = weights_conv(w, c->channels[k], c->channels[k], 3, "%s.upsamplers.0.conv", name);
    }
}

static void load(void *arg, struct weights *w)
{
    struct unet *u = arg;
    struct unet_layers *l = u->layers;
    const struct unet_config *c = &u->config;
    int64_t last = c->channels[c->blocks - 1];
    l->time1 = weights_linear(w, c->time_dim, c->channels[0], true, "time_embedding.linear_1");
    l->time2 = weights_linear(w, c->time_dim, c->time_dim, true, "time_embedding.linear_2");
    l->conv_in = weights_conv(w, c->channels[0], c->in_channels, c->conv_in_kernel, "conv_in");
    load_down(l, w, c);
    resnet_load(&l->mid_first, w, last, last, c->time_dim, c->groups, c->eps, "mid_block.resnets.0");
    load_transformer(&l->mid, w, c, c->blocks - 1, "mid_block.attentions.0");
    resnet_load(&l->mid_second, w, last, last, c->time_dim, c->groups, c->eps, "mid_block.resnets.1");
    load_up(l, w, c);
    l->norm_out = weights_norm(w, c->channels[0], "conv_norm_out");
    l->conv_out = weights_conv(w, c->out_channels, c->channels[0], c->conv_out_kernel, "conv_out");
}

struct error unet_load(struct unet *u, struct device *d, const char *folder, int bits, struct store store)
{
    *u = (struct unet){0};
    struct error e = unet_config_read(&u->config, folder, PREDICTION_AS_MODEL);
    if (e.code != ERROR_NONE)
        return weights_refuse(store, e);
    u->layers = memory_alloc(1, sizeof *u->layers);
    if (u->layers)
        e = weights_load(&u->weights, d, folder, "unet", bits, store, load, u);
    else
        e = weights_refuse(store, error_memory("the UNet"));
    if (e.code != ERROR_NONE)
        unet_free(u);
    return e;
}

void unet_free(struct unet *u)
{
    weights_free(&u->weights);
    memory_free(u->layers);
    u->layers = NULL;
}

/* -------------------------------------------------------------------------------- what reads the text */

typedef struct error take_product(void *arg, const struct weight *weight, int64_t channels);

static struct error take_transformer(const struct transformer *t, take_product *take, void *arg)
{
    for (int64_t i = 0; i < t->depth; i++)
        TRY(take(arg, t->blocks[i].kv2, 2 * t->channels));
    return ok();
}

struct error unet_text_products(const struct unet *u, take_product *take, void *arg)
{
    for (int64_t i = 0; i < 2 * u->config.blocks; i++) {
        const struct unet_block *b = i % 2 ? &u->layers->up[i / 2] : &u->layers->down[i / 2];
        for (int64_t j = 0; j < b->layers && b->cross; j++)
            TRY(take_transformer(&b->transformers[j], take, arg));
    }
    return take_transformer(&u->layers->mid, take, arg);
}

/* -------------------------------------------------------------------------------- forward */

/* What flows through the network, before and after the lanes separate. */
struct flow {
    struct device *d;
    struct tensor h;
    bool per_lane;      /* h has a lane for each evaluation, not for each picture */
    struct tensor time; /* silu(timestep embedding), for h's lanes; with tangents always for the pictures' */
    struct tensor map, hidden;
    struct skip {
        struct tensor h;
        bool per_lane;
    } skips[SKIPS];
    int64_t skip_count;
};

/* A copy of x [pictures, ...] with a lane for each evaluation. */
static struct tensor copy_per_lane(struct flow *f, struct tensor x)
{
    struct tensor y = device_alloc(f->d, F32, f->hidden.lanes, x.height, x.width, x.channels);
    op_copy(f->d, y, x, f->map);
    return y;
}

/* From here on h and x have a lane for each evaluation. So do the query and the time, except with tangents: they do not
 * depend on the text, so their derivatives are zero, which ops see from their having the pictures' lanes only. */
static void split_lanes(struct flow *f, struct tensor *q, struct tensor *x)
{
    bool tangents = tangents_on(f->d);
    if (!tangents)
        block_replace(f->d, q, copy_per_lane(f, *q));
    block_replace(f->d, x, copy_per_lane(f, *x));
    block_replace(f->d, &f->h, copy_per_lane(f, f->h));
    if (!tangents)
        block_replace(f->d, &f->time, copy_per_lane(f, f->time));
    f->per_lane = true;
}

static void self_attention(struct device *d, const struct transformer *t, const struct transformer_block *b,
                           struct tensor x)
{
    struct tensor h = block_alloc(d, x, t->channels);
    op_norm(d, h, x, b->norm1, 0, layer_norm_eps, ACT_NONE);
    block_self_attention(d, b->qkv1, h, t->heads, false);
    op_linear(d, x, h, b->out1, (struct epilogue){.residual = &x});
    device_free(d, &h);
}

/* The text comes in here. Nothing up to the query depends on it, so the lanes separate right after the first query. */
static void cross_attention(struct flow *f, const struct transformer *t, const struct transformer_block *b,
                            struct tensor *x)
{
    struct device *d = f->d;
    struct tensor h = block_alloc(d, *x, t->channels);
    op_norm(d, h, *x, b->norm2, 0, layer_norm_eps, ACT_NONE);
    struct tensor q = block_linear(d, b->q2, h, t->channels);
    device_free(d, &h);
    if (!f->per_lane)
        split_lanes(f, &q, x);
    struct tensor kv = block_linear(d, b->kv2, f->hidden, 2 * t->channels);
    struct tensor k = tensor_channels(kv, 0, t->channels), v = tensor_channels(kv, t->channels, t->channels);
    h = block_alloc(d, *x, t->channels);
    op_attention(d, h, q, k, v, t->heads, false);
    device_free(d, &kv);
    device_free(d, &q);
    op_linear(d, *x, h, b->out2, (struct epilogue){.residual = x});
    device_free(d, &h);
}

static void feed_forward(struct device *d, const struct transformer *t, const struct transformer_block *b,
                         struct tensor x)
{
    int64_t inner_channels = 4 * t->channels;
    for (int64_t done = 0; done < x.height * x.width;) {
        struct tensor piece = block_piece(d, x, done, inner_channels);
        struct tensor h = block_alloc(d, piece, t->channels);
        op_norm(d, h, piece, b->norm3, 0, layer_norm_eps, ACT_NONE);
        struct tensor inner = block_alloc(d, piece, inner_channels);
        op_linear(d, inner, h, b->gated, (struct epilogue){.act = ACT_GEGLU});
        device_free(d, &h);
        op_linear(d, piece, inner, b->down, (struct epilogue){.residual = &piece});
        device_free(d, &inner);
        done += piece.width;
    }
}

static void apply_transformer(struct flow *f, const struct transformer *t)
{
    struct tensor x = block_alloc(f->d, f->h, t->channels);
    op_norm(f->d, x, f->h, t->norm, t->groups, transformer_eps, ACT_NONE);
    block_replace(f->d, &x, block_linear(f->d, t->proj_in, x, t->channels));
    for (int64_t i = 0; i < t->depth; i++) {
        self_attention(f->d, t, &t->blocks[i], x);
        cross_attention(f, t, &t->blocks[i], &x);
        feed_forward(f->d, t, &t->blocks[i], x);
    }
    op_linear(f->d, f->h, x, t->proj_out, (struct epilogue){.residual = &f->h});
    device_free(f->d, &x);
}

/* h is also kept as a skip. */
static void push_skip(struct flow *f)
{
    f->skips[f->skip_count++] = (struct skip){f->h, f->per_lane};
}

/* h concatenated with the newest skip; frees both. */
static void concat_skip(struct flow *f)
{
    struct skip skip = f->skips[--f->skip_count];
    struct tensor joined = block_alloc(f->d, f->h, f->h.channels + skip.h.channels);
    op_copy(f->d, tensor_channels(joined, 0, f->h.channels), f->h, (struct tensor){0});
    op_copy(f->d, tensor_channels(joined, f->h.channels, skip.h.channels), skip.h,
            skip.per_lane == f->per_lane ? (struct tensor){0} : f->map);
    device_free(f->d, &skip.h);
    block_replace(f->d, &f->h, joined);
}

/* One resnet, and the transformer after it if there is one. `owned`: h is not a skip, so it may be freed. */
static void apply_layer(struct flow *f, const struct unet_block *b, int64_t j, bool owned)
{
    if (owned)
        resnet_in_place(f->d, &b->resnets[j], &f->h, &f->time);
    else
        f->h = resnet_forward(f->d, &b->resnets[j], f->h, &f->time);
    if (b->cross)
        apply_transformer(f, &b->transformers[j]);
}

static void run_down_blocks(struct flow *f, const struct unet *u)
{
    int64_t pad = u->config.downsample_padding;
    push_skip(f);
    for (int64_t i = 0; i < u->config.blocks; i++) {
        const struct unet_block *b = &u->layers->down[i];
        for (int64_t j = 0; j < b->layers; j++) {
            apply_layer(f, b, j, false);
            push_skip(f);
        }
        if (!b->resample)
            continue;
        // without padding diffusers pads one row below and one column to the right
        int64_t room = pad ? 2 * pad - 3 : -2;
        f->h = block_conv(f->d, b->resample, f->h, (f->h.height + room) / 2 + 1, (f->h.width + room) / 2 + 1,
                          f->h.channels, (struct conv){.stride = 2, .pad = pad});
        push_skip(f);
    }
}

static void run_up_blocks(struct flow *f, const struct unet *u)
{
    for (int64_t i = 0; i < u->config.blocks; i++) {
        const struct unet_block *b = &u->layers->up[i];
        for (int64_t j = 0; j < b->layers; j++) {
            concat_skip(f);
            apply_layer(f, b, j, true);
        }
        if (!b->resample)
            continue;
        // twice as large; if a size was odd on the way down, as large as the skip that comes next
        struct tensor skip = f->skips[f->skip_count - 1].h;
        block_replace(f->d, &f->h,
                      block_conv(f->d, b->resample, f->h, skip.height, skip.width, f->h.channels,
                                 (struct conv){.stride = 1, .pad = 1, .up = true}));
    }
}

static struct tensor embed_time(struct device *d, const struct unet *u, struct tensor timestep)
{
    const struct unet_config *c = &u->config;
    struct tensor wave = device_alloc(d, F32, timestep.lanes, 1, 1, c->channels[0]);
    op_timestep(d, wave, timestep, c->flip_sin_to_cos, c->freq_shift);
    struct tensor h = device_alloc(d, F32, timestep.lanes, 1, 1, c->time_dim);
    op_linear(d, h, wave, u->layers->time1, (struct epilogue){.act = ACT_SILU});
    device_free(d, &wave);
    struct tensor time = device_alloc(d, F32, timestep.lanes, 1, 1, c->time_dim);
    op_linear(d, time, h, u->layers->time2, (struct epilogue){.act = ACT_SILU}); // every resnet starts with this silu
    device_free(d, &h);
    return time;
}

struct tensor unet_forward(struct device *d, const struct unet *u, const struct unet_input *in)
{
    const struct unet_config *c = &u->config;
    const struct unet_layers *l = u->layers;
    struct flow f = {.d = d, .map = in->map, .hidden = in->hidden};
    f.time = embed_time(d, u, in->timestep);
    f.h = block_conv(d, l->conv_in, in->sample, in->sample.height, in->sample.width, c->channels[0],
                     (struct conv){.stride = 1, .pad = c->conv_in_kernel / 2});
    run_down_blocks(&f, u);

    // middle: from here on h is not a skip and may be freed, but the first step must keep it, since the last skip is
    // the same tensor
    f.h = resnet_forward(d, &l->mid_first, f.h, &f.time);
    apply_transformer(&f, &l->mid);
    resnet_in_place(d, &l->mid_second, &f.h, &f.time);

    run_up_blocks(&f, u);
    op_norm(d, f.h, f.h, l->norm_out, c->groups, c->eps, ACT_SILU);
    struct tensor noise = block_conv(d, l->conv_out, f.h, f.h.height, f.h.width, c->out_channels,
                                     (struct conv){.stride = 1, .pad = c->conv_out_kernel / 2});
    device_free(d, &f.h);
    device_free(d, &f.time);
    return noise;
}
