#include "model/ldm_shape.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = 256, MOST_BLOCKS = UNET_BLOCKS * (UNET_LAYERS + 1), OPEN_CLIP_WITHOUT_LAST = 23 };

#define UNET "model.diffusion_model."
#define VAE  "first_stage_model."

const struct entry *ldm_find(const struct safetensors *file, const char *format, ...)
{
    char name[NAME_ROOM];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    return safetensors_find(file, name);
}

bool ldm_has_prefix(const struct safetensors *file, const char *prefix)
{
    for (int64_t i = 0; i < file->entry_count; i++)
        if (strncmp(file->entries[i].name, prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

/* One more than the highest N of the names PREFIX.N.; 0 if there is none, `most` + 1 if it is higher. */
static int64_t count_numbered(const struct safetensors *file, int64_t most, const char *format, ...)
{
    char prefix[NAME_ROOM];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    size_t length = strlen(prefix);
    int64_t count = 0;
    for (int64_t i = 0; i < file->entry_count; i++) {
        const char *name = file->entries[i].name;
        if (strncmp(name, prefix, length) != 0 || name[length] < '0' || name[length] > '9')
            continue;
        char *end;
        long number = strtol(name + length, &end, 10); // what is too large is LONG_MAX
        if (*end == '.' && number >= count)
            count = number < most ? number + 1 : most + 1;
    }
    return count;
}

/* An entry that has to be there, with at least so many dimensions. */
static struct error need(const struct safetensors *file, int dimensions, const struct entry **entry, const char *format,
                         ...)
{
    char name[NAME_ROOM];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    *entry = safetensors_find(file, name);
    if (!*entry)
        return error_input("%s: tensor %s: is missing; is the checkpoint complete?", file->path, name);
    if ((*entry)->dimensions < dimensions)
        return error_input("%s: tensor %s: has %d dimensions, expected %d", file->path, name, (*entry)->dimensions,
                           dimensions);
    return ok();
}

static struct error too_many(const struct safetensors *file, const char *what, int64_t most)
{
    return error_input("%s: %s: more than %lld are not supported", file->path, what, (long long)most);
}

/* -------------------------------------------------------------------------------- the UNet */

static int64_t depth_of(const struct safetensors *file, const char *block, int64_t number)
{
    return count_numbered(file, UNET_DEPTH, UNET "%s.%lld.1.transformer_blocks.", block, (long long)number);
}

static struct error read_down(struct ldm_unet *u, const struct safetensors *file)
{
    int64_t count = count_numbered(file, MOST_BLOCKS, UNET "input_blocks."), block = 0;
    if (count > MOST_BLOCKS)
        return too_many(file, UNET "input_blocks", MOST_BLOCKS);
    for (int64_t n = 1; n < count; n++) {
        const struct entry *conv;
        if (ldm_find(file, UNET "input_blocks.%lld.0.op.weight", (long long)n)) {
            if (++block == UNET_BLOCKS)
                return too_many(file, UNET "input_blocks: blocks", UNET_BLOCKS);
            continue;
        }
        TRY(need(file, 4, &conv, UNET "input_blocks.%lld.0.in_layers.2.weight", (long long)n));
        if (++u->layers[block] == UNET_LAYERS)
            return too_many(file, UNET "input_blocks: layers of a block", UNET_LAYERS - 1);
        u->channels[block] = conv->shape[0];
        int64_t depth = depth_of(file, "input_blocks", n);
        if (depth > UNET_DEPTH)
            return too_many(file, UNET "input_blocks: transformer_blocks", UNET_DEPTH);
        u->down_cross[block] = depth > 0;
        u->depth[block] = depth > 0 ? depth : 1;
    }
    u->blocks = block + 1;
    for (int64_t i = 0; i < u->blocks; i++)
        if (u->layers[i] == 0)
            return error_input("%s: " UNET "input_blocks: a block without layers; is the checkpoint complete?",
                               file->path);
    return ok();
}

/* Blocks follow one another in the other direction. */
static struct error read_up(struct ldm_unet *u, const struct safetensors *file)
{
    int64_t first = 0;
    for (int64_t i = 0; i < u->blocks; i++) {
        u->up_cross[i] = depth_of(file, "output_blocks", first) > 0;
        first += u->layers[u->blocks - 1 - i] + 1;
    }
    int64_t count = count_numbered(file, MOST_BLOCKS, UNET "output_blocks.");
    return count == first ? ok()
                          : error_input("%s: " UNET "output_blocks: there are %lld, but input_blocks need %lld; is "
                                        "the checkpoint complete?",
                                        file->path, (long long)count, (long long)first);
}

/* The block in the middle is as deep as the last one on the way down, which need not have attention of its own. */
static struct error read_middle(struct ldm_unet *u, const struct safetensors *file)
{
    const struct entry *key, *projection;
    int64_t depth = count_numbered(file, UNET_DEPTH, UNET "middle_block.1.transformer_blocks.");
    if (depth < 1 || depth > UNET_DEPTH)
        return error_input("%s: " UNET "middle_block.1: %s transformer_blocks", file->path, depth ? "too many" : "no");
    if (u->down_cross[u->blocks - 1] && u->depth[u->blocks - 1] != depth)
        return error_input("%s: " UNET "middle_block.1: %lld transformer_blocks, but the block before has %lld",
                           file->path, (long long)depth, (long long)u->depth[u->blocks - 1]);
    u->depth[u->blocks - 1] = depth;
    TRY(need(file, 2, &key, UNET "middle_block.1.transformer_blocks.0.attn2.to_k.weight"));
    TRY(need(file, 2, &projection, UNET "middle_block.1.proj_in.weight"));
    u->cross_dim = key->shape[1];
    u->linear = projection->dimensions == 2;
    return ok();
}

static struct error read_unet(struct ldm_unet *u, const struct safetensors *file)
{
    const struct entry *in, *out;
    TRY(need(file, 4, &in, UNET "input_blocks.0.0.weight"));
    TRY(need(file, 4, &out, UNET "out.2.weight"));
    u->in_channels = in->shape[1];
    u->conv_in_kernel = in->shape[2];
    u->out_channels = out->shape[0];
    u->conv_out_kernel = out->shape[2];
    TRY(read_down(u, file));
    TRY(read_up(u, file));
    return read_middle(u, file);
}

/* -------------------------------------------------------------------------------- the VAE */

static struct error read_vae(struct ldm_vae *v, const struct safetensors *file)
{
    const struct entry *conv;
    TRY(need(file, 4, &conv, VAE "decoder.conv_in.weight"));
    v->latent_channels = conv->shape[1];
    v->blocks = count_numbered(file, VAE_BLOCKS, VAE "encoder.down.");
    v->layers = count_numbered(file, VAE_RESNETS - 1, VAE "encoder.down.0.block.");
    if (v->blocks > VAE_BLOCKS || v->layers > VAE_RESNETS - 1)
        return too_many(file, VAE "encoder.down: blocks or layers", VAE_BLOCKS);
    if (v->layers == 0)
        return error_input("%s: tensor " VAE "encoder.down.0.block.0.conv1.weight: is missing; is the checkpoint "
                           "complete?",
                           file->path);
    for (int64_t i = 0; i < v->blocks; i++) {
        if (count_numbered(file, VAE_RESNETS, VAE "encoder.down.%lld.attn.", (long long)i) > 0)
            return error_input("%s: " VAE "encoder.down.%lld.attn: attention beside the middle is not supported",
                               file->path, (long long)i);
        TRY(need(file, 4, &conv, VAE "encoder.down.%lld.block.0.conv1.weight", (long long)i));
        v->channels[i] = conv->shape[0];
    }
    v->quant_conv = ldm_find(file, VAE "quant_conv.weight");
    v->post_quant_conv = ldm_find(file, VAE "post_quant_conv.weight");
    return ok();
}

/* -------------------------------------------------------------------------------- the text encoder */

static struct error read_tables(struct ldm_text *t, const struct safetensors *file, const char *tokens,
                                const char *positions)
{
    const struct entry *table;
    TRY(need(file, 2, &table, "%s%s", t->prefix, tokens));
    t->vocab = table->shape[0];
    t->width = table->shape[1];
    TRY(need(file, 2, &table, "%s%s", t->prefix, positions));
    t->positions = table->shape[0];
    return ok();
}

static struct error read_layers(struct ldm_text *t, const struct safetensors *file, const char *layers, const char *fc)
{
    const struct entry *first;
    t->layers = count_numbered(file, LDM_TEXT_LAYERS, "%s%s.", t->prefix, layers);
    if (t->layers > LDM_TEXT_LAYERS)
        return too_many(file, "the text encoder's layers", LDM_TEXT_LAYERS);
    TRY(need(file, 2, &first, "%s%s.0.%s.weight", t->prefix, layers, fc));
    t->inner = first->shape[0];
    return ok();
}

static struct error read_text(struct ldm_text *t, const struct safetensors *file)
{
    static const char *const prefixes[] = {"cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.",
                                           "cond_stage_model.model."};
    int which = 0;
    while (which < 2 && !ldm_has_prefix(file, prefixes[which]))
        which++;
    t->prefix = prefixes[which];
    t->open_clip = which == 2;
    if (!t->open_clip) {
        TRY(read_tables(t, file, "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"));
        return read_layers(t, file, "encoder.layers", "mlp.fc1");
    }
    TRY(read_tables(t, file, "token_embedding.weight", "positional_embedding"));
    TRY(read_layers(t, file, "transformer.resblocks", "mlp.c_fc"));
    t->layers -= t->layers != OPEN_CLIP_WITHOUT_LAST;
    return t->layers > 0 ? ok()
                         : error_input("%s: %stransformer.resblocks: expected two or more, the last of which is unused",
                                       file->path, t->prefix);
}

struct error ldm_shape_read(struct ldm_shape *shape, const struct safetensors *file)
{
    *shape = (struct ldm_shape){0};
    TRY(read_unet(&shape->unet, file));
    TRY(read_vae(&shape->vae, file));
    return read_text(&shape->text, file);
}
