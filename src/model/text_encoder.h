/* model/text_encoder.h
 *
 * CLIP's text model (transformers CLIPTextModel), up to last_hidden_state:
 *
 *     ids ─ token + position embedding ─ N x [ norm ─ causal attention ─(+)─ norm ─ fc1 ─ act ─ fc2 ─(+) ] ─ final norm
 *
 * The token embedding is where the word being learned enters: ids from `first` on take their row from the lane's own
 * `rows`, the perturbed embedding.
 */
#ifndef ZOODIP_MODEL_TEXT_ENCODER_H
#define ZOODIP_MODEL_TEXT_ENCODER_H

#include "device/device.h"
#include "model/weights.h"

struct text_config {
    int64_t vocab, width, inner, layers, heads, positions;
    float eps;
    enum act act; /* hidden_act: quick_gelu or gelu */
};

struct text_encoder {
    struct text_config config;
    struct weights weights;
    double table_rms;     /* the root of the mean square of the token table; 1 for a table of zeros */
    double tangent_scale; /* of struct tangents: the power of two nearest to that */

    /* private */
    struct weight *tokens, *positions;
    struct text_layer *layers; /* [config.layers] */
    const struct weight *final_norm;
};

/* Reads a model's text_encoder/config.json (model/model_source.h); refuses, by key and value, what is not CLIP. */
struct error text_config_read(struct text_config *c, const char *model);

/* Loads FOLDER/text_encoder with its linear weights kept in `bits` (0: as stored). Free with text_encoder_free. */
struct error text_encoder_load(struct text_encoder *t, struct device *d, const char *folder, int bits,
                               struct store store);
void text_encoder_free(struct text_encoder *t);

/* The token table's row of an id below config.vocab -> row [width]. */
struct error text_encoder_row(const struct text_encoder *t, int32_t id, float *row);

/* Adds to the ids that text_encoder_forward may be given; those of learned words are ignored. */
struct error text_encoder_add_ids(struct device *d, const struct text_encoder *t, const int32_t *ids, int64_t count);

/* ids I32 [lanes, 1, length, 1], rows F32 [lanes, 1, vectors, width] -> a new tensor [lanes, 1, length, width]. */
struct tensor text_encoder_forward(struct device *d, const struct text_encoder *t, struct tensor ids,
                                   struct tensor rows, int64_t first);

#endif
