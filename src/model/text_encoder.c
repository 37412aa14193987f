#include "model/text_encoder.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/json.h"
#include "model/blocks.h"
#include "model/model_source.h"

struct text_layer {
    const struct weight *norm1, *qkv, *out, *norm2, *fc1, *fc2;
};

struct error text_config_read(struct text_config *c, const char *model)
{
    char path[PATH_SIZE];
    struct json j;
    TRY(model_json(&j, path, model, "text_encoder/config.json", PREDICTION_AS_MODEL));
    const char *type = json_string(&j, "model_type", "clip_text_model");
    if (strcmp(type, "clip_text_model") != 0)
        json_wrong(&j, "model_type", "\"%.60s\" is not supported, only \"clip_text_model\"", type);
    c->vocab = json_integer(&j, "vocab_size", 49408, 1, 1 << 24);
    c->width = json_integer(&j, "hidden_size", 512, 1, 1 << 16);
    c->inner = json_integer(&j, "intermediate_size", 2048, 1, 1 << 18);
    c->layers = json_integer(&j, "num_hidden_layers", 12, 1, 1024);
    c->heads = json_integer(&j, "num_attention_heads", 8, 1, 1 << 12);
    c->positions = json_integer(&j, "max_position_embeddings", 77, 2, 1 << 16);
    c->eps = (float)json_number(&j, "layer_norm_eps", 1e-5);
    const char *act = json_string(&j, "hidden_act", "quick_gelu");
    if (strcmp(act, "quick_gelu") == 0)
        c->act = ACT_QUICK_GELU;
    else if (strcmp(act, "gelu") == 0)
        c->act = ACT_GELU;
    else
        json_wrong(&j, "hidden_act", "\"%.60s\" is not supported, only \"quick_gelu\" and \"gelu\"", act);
    if (c->width % c->heads != 0)
        json_wrong(&j, "num_attention_heads", "does not divide hidden_size");
    json_close(&j);
    return j.error;
}

static void load(void *arg, struct weights *w)
{
    struct text_encoder *t = arg;
    const struct text_config *c = &t->config;
    static const char *const all[] = {".q_proj", ".k_proj", ".v_proj", NULL};
    t->tokens = weights_table(w, c->vocab, c->width, "text_model.embeddings.token_embedding");
    t->positions = weights_table(w, c->positions, c->width, "text_model.embeddings.position_embedding");
    for (int64_t i = 0; i < c->layers; i++) {
        struct text_layer *l = &t->layers[i];
        int n = (int)i;
        l->norm1 = weights_norm(w, c->width, "text_model.encoder.layers.%d.layer_norm1", n);
        l->qkv = weights_joined(w, c->width, c->width, true, all, "text_model.encoder.layers.%d.self_attn", n);
        l->out = weights_linear(w, c->width, c->width, true, "text_model.encoder.layers.%d.self_attn.out_proj", n);
        l->norm2 = weights_norm(w, c->width, "text_model.encoder.layers.%d.layer_norm2", n);
        l->fc1 = weights_linear(w, c->inner, c->width, true, "text_model.encoder.layers.%d.mlp.fc1", n);
        l->fc2 = weights_linear(w, c->width, c->inner, true, "text_model.encoder.layers.%d.mlp.fc2", n);
    }
    t->final_norm = weights_norm(w, c->width, "text_model.final_layer_norm");
}

/* Every position may be used. */
static struct error add_positions(struct device *d, const struct text_encoder *t)
{
    int64_t count = t->config.positions;
    int32_t *all = memory_alloc(count, sizeof *all);
    if (!all)
        return error_memory("the positions");
    for (int64_t i = 0; i < count; i++)
        all[i] = (int32_t)i;
    struct error e = device_upload_rows(d, t->positions, all, count);
    memory_free(all);
    return e;
}

struct error text_encoder_add_ids(struct device *d, const struct text_encoder *t, const int32_t *ids, int64_t count)
{
    return device_upload_rows(d, t->tokens, ids, count);
}

/* From rows spread evenly over the table, the same on every rank. */
static struct error find_scales(struct text_encoder *t)
{
    enum { ROWS = 1024 };
    int64_t width = t->config.width, apart = (t->config.vocab + ROWS - 1) / ROWS, count = 0;
    float *row = memory_alloc(width, sizeof *row);
    struct error e = row ? ok() : error_memory("a row of the token embedding");
    double sum = 0;
    for (int64_t id = 0; id < t->config.vocab && e.code == ERROR_NONE; id += apart) {
        e = text_encoder_row(t, (int32_t)id, row);
        for (int64_t i = 0; i < width; i++)
            sum += (double)row[i] * row[i];
        count += width;
    }
    memory_free(row);
    // the system has mapped most of the table around those rows, of which a run needs a few
    for (int64_t i = 0; i < t->weights.file.entry_count; i++)
        safetensors_forget(&t->weights.file, &t->weights.file.entries[i]);
    double rms = sqrt(sum / (double)count);
    t->table_rms = rms > 0 && isfinite(rms) ? rms : 1;
    t->tangent_scale = exp2(round(log2(t->table_rms)));
    return e;
}

struct error text_encoder_load(struct text_encoder *t, struct device *d, const char *folder, int bits,
                               struct store store)
{
    *t = (struct text_encoder){0};
    struct error e = text_config_read(&t->config, folder);
    if (e.code == ERROR_NONE && !(t->layers = memory_alloc(t->config.layers, sizeof *t->layers)))
        e = error_memory("the text encoder");
    if (e.code != ERROR_NONE)
        return weights_refuse(store, e);
    e = weights_load(&t->weights, d, folder, "text_encoder", bits, store, load, t);
    if (e.code == ERROR_NONE && store.alloc)
        e = add_positions(d, t);
    if (e.code == ERROR_NONE)
        e = find_scales(t);
    if (e.code != ERROR_NONE)
        text_encoder_free(t);
    return e;
}

void text_encoder_free(struct text_encoder *t)
{
    weights_free(&t->weights);
    memory_free(t->layers);
    t->layers = NULL;
}

struct error text_encoder_row(const struct text_encoder *t, int32_t id, float *row)
{
    const struct safetensors *file = &t->weights.file;
    const struct entry *table = safetensors_find(file, "text_model.embeddings.token_embedding.weight");
    if (!table)
        table = safetensors_find(file, "embeddings.token_embedding.weight");
    if (!table || id < 0 || id >= t->config.vocab)
        return error_input("%s: token %d is outside the token embedding", file->path, id);
    int64_t width = t->config.width;
    dtype_to_float(row, (const char *)table->data + id * width * dtype_size(table->type), table->type, width);
    return ok();
}

struct tensor text_encoder_forward(struct device *d, const struct text_encoder *t, struct tensor ids,
                                   struct tensor rows, int64_t first)
{
    const struct text_config *c = &t->config;
    struct tensor x = device_alloc(d, F32, ids.lanes, 1, ids.width, c->width);
    op_embed(d, x, ids, t->tokens, t->positions, rows, first);
    struct tensor h = block_alloc(d, x, c->width);
    for (int64_t i = 0; i < c->layers; i++) {
        const struct text_layer *l = &t->layers[i];

        // causal attention
        op_norm(d, h, x, l->norm1, 0, c->eps, ACT_NONE);
        block_self_attention(d, l->qkv, h, c->heads, true);
        op_linear(d, x, h, l->out, (struct epilogue){.residual = &x});

        // feed forward
        op_norm(d, h, x, l->norm2, 0, c->eps, ACT_NONE);
        for (int64_t done = 0; done < x.width;) {
            struct tensor piece = block_piece(d, x, done, c->inner), inner = block_alloc(d, piece, c->inner);
            op_linear(d, inner, tensor_piece(h, done, piece.width), l->fc1, (struct epilogue){.act = c->act});
            op_linear(d, piece, inner, l->fc2, (struct epilogue){.residual = &piece});
            device_free(d, &inner);
            done += piece.width;
        }
    }
    op_norm(d, h, x, t->final_norm, 0, c->eps, ACT_NONE);
    device_free(d, &x);
    return h;
}
