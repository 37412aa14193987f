/* model/text_jacobian.h
 *
 * What a word can change for the UNet: JtJ of J = d(keys and values of all cross-attentions)/d(word), for a caption.
 * Without UNet or loss: with Xp [cross_dim, dim] the derivative of the text encoder's hidden state at position p,
 *
 *     JtJ = sum over positions of Xpt M Xp,   M = sum over cross-attentions of Wkt Wk + Wvt Wv  [cross_dim, cross_dim]
 *
 * M has eigenvectors V and eigenvalues L, so that Xpt M Xp = Ypt Yp with Yp = L^1/2 Vt Xp: a linear layer behind the
 * text encoder, as wide as it. Its tangents along the word's unit vectors are J's columns, up to a rotation that JtJ
 * does not see; positions before the word have none. Weights count as the device has them, dequantized.
 */
#ifndef ZOODIP_MODEL_TEXT_JACOBIAN_H
#define ZOODIP_MODEL_TEXT_JACOBIAN_H

#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "device/device.h"
#include "model/text_encoder.h"
#include "model/unet.h"

struct text_jacobian {
    int64_t dim;     /* of the word: vectors x width */
    int64_t batches; /* in which the columns are found */

    /* private */
    struct device *device;
    const struct text_encoder *text;
    int64_t length, vectors, width, columns; /* columns: of a batch */
    int32_t first_id;
    struct weight *root; /* of M */
    void *root_memory, *root_uploaded;
    int64_t root_bytes;
    struct tensor ids, rows, of, out;
    struct program *program;
    int32_t *ids_now; /* what ids and rows were last written with */
    float *rows_now;
    float *found;    /* out, as it was read */
    float *jacobian; /* [dim, positions from the word on x width], while a caption's batches go on */
};

/* What it is about: captions of `length` ids, in which a word of `vectors` has ids from first_id on. */
struct text_jacobian_shape {
    int64_t length, vectors;
    int32_t first_id;
};

/* Text encoder and UNet are borrowed. Batches are as large as fits into `arena` bytes of
 * the device's arena. On a simulated device it only allocates. Free with text_jacobian_free. */
struct error text_jacobian_new(struct text_jacobian *j, struct device *device, const struct text_encoder *text,
                               const struct unet *unet, const struct text_jacobian_shape *shape, int64_t arena,
                               struct pool *pool);
void text_jacobian_free(struct text_jacobian *j);

/* Batch k = 0 .. batches - 1, one after the other: finds its columns at the word `embedding` [dim] in the caption ids
 * [length] and adds their rows to the lower triangle of JtJ [dim, dim]. */
struct error text_jacobian_add(struct text_jacobian *j, const int32_t *ids, const float *embedding, int64_t k,
                               double *products, struct pool *pool);

#endif
