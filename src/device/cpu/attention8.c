#include "device/cpu/attention.h"

#include <string.h>

/* The products of attention's tangents in codes of 8 bits: the factors of k q., k. q, v.t p and vt (p (s. - mean)) are
 * rounded, the last without what a query's scores have in common; weights relative to the largest of their block. */

/* A part of `bytes` bytes at the end of what has been taken, or NULL if it is only counted. */
static void *take(char *scratch, int64_t *taken, int64_t bytes)
{
    char *from = scratch ? scratch + *taken : NULL;
    *taken += round_up(bytes, 64);
    return from;
}

int64_t attention8_lay_out(const struct attention *a, struct attention_codes *c, int64_t lanes, char *scratch)
{
    int64_t panel = a->kernels->panel, columns = a->panels * panel, taken = 0;
    int64_t scale = sizeof(float), row = sizeof(struct row_codes);
    c->k = take(scratch, &taken, a->block_keys * a->terms);
    c->k_tangent = take(scratch, &taken, a->block_keys * a->terms);
    c->v = take(scratch, &taken, a->padded_size * a->key_terms);
    c->v_tangent = take(scratch, &taken, a->padded_size * a->key_terms);
    c->k_rows = take(scratch, &taken, a->block_keys * row);
    c->k_tangent_rows = take(scratch, &taken, a->block_keys * row);
    c->v_rows = take(scratch, &taken, a->padded_size * row);
    c->v_tangent_rows = take(scratch, &taken, a->padded_size * row);
    c->q = take(scratch, &taken, lanes * columns * a->terms);
    c->q_scales = take(scratch, &taken, lanes * columns * scale);
    c->weights = take(scratch, &taken, columns * a->key_terms);
    c->weight_scales = take(scratch, &taken, columns * scale);
    c->scores = take(scratch, &taken, panel * a->key_terms);
    c->score_scales = take(scratch, &taken, panel * scale);
    c->row = take(scratch, &taken, a->key_terms * scale);
    return taken;
}

static uint8_t *queries_of(const struct attention *a, const struct query_block *b, int64_t i, int64_t p)
{
    return b->codes.q + (i * a->panels + p) * a->terms * a->kernels->panel;
}

static float *query_scales_of(const struct attention *a, const struct query_block *b, int64_t i, int64_t p)
{
    return b->codes.q_scales + (i * a->panels + p) * a->kernels->panel;
}

void attention8_queries(const struct attention *a, const struct query_block *b, int64_t i, int64_t p, const float *q)
{
    a->kernels->encode_columns(queries_of(a, b, i, p), query_scales_of(a, b, i, p), q, a->size, a->terms);
}

static void encode_row(const struct attention *a, int8_t *to, struct row_codes *row, const float *x, int64_t count,
                       int64_t terms)
{
    a->kernels->encode(to, row, x, count);
    memset(to + count, 0, (size_t)(terms - count));
}

void attention8_keys(const struct attention *a, const struct query_block *b, bool tangent, int64_t count)
{
    const struct attention_codes *c = &b->codes;
    const float *k = tangent ? b->k_tangent : b->k, *v = tangent ? b->v_tangent : b->v;
    int8_t *k_codes = tangent ? c->k_tangent : c->k, *v_codes = tangent ? c->v_tangent : c->v;
    struct row_codes *k_rows = tangent ? c->k_tangent_rows : c->k_rows;
    struct row_codes *v_rows = tangent ? c->v_tangent_rows : c->v_rows;
    for (int64_t key = 0; key < round_up(count, 4); key++) // load_keys leaves zeros after the last
        encode_row(a, k_codes + key * a->terms, k_rows + key, k + key * a->size, a->size, a->terms);
    for (int64_t channel = 0; channel < a->padded_size; channel++) {
        for (int64_t key = 0; key < count; key++)
            c->row[key] = v[key * a->padded_size + channel];
        encode_row(a, v_codes + channel * a->key_terms, v_rows + channel, c->row, count, a->key_terms);
    }
}

void attention8_weights(const struct attention *a, const struct query_block *b, int64_t p, const float *weights,
                        int64_t count)
{
    int64_t panel = a->kernels->panel;
    a->kernels->encode_columns(b->codes.weights + p * panel * a->key_terms, b->codes.weight_scales + p * panel, weights,
                               count, a->key_terms);
}

void attention8_scores(const struct attention *a, const struct query_block *b, int64_t i, int64_t p, bool moves,
                       int64_t count)
{
    const struct attention_codes *c = &b->codes;
    int64_t keys = round_up(count, 4);
    if (moves)
        a->unit->multiply(b->scores, c->k, a->terms, c->k_rows, queries_of(a, b, i, p), query_scales_of(a, b, i, p),
                          keys, a->terms, false);
    a->unit->multiply(b->scores, c->k_tangent, a->terms, c->k_tangent_rows, queries_of(a, b, 0, p),
                      query_scales_of(a, b, 0, p), keys, a->terms, moves);
}

void attention8_values(const struct attention *a, const struct query_block *b, float *u, int64_t p, int64_t count,
                       bool add)
{
    const struct attention_codes *c = &b->codes;
    int64_t panel = a->kernels->panel;
    a->kernels->encode_columns(c->scores, c->score_scales, b->scores, count, a->key_terms);
    a->unit->multiply(u, c->v, a->key_terms, c->v_rows, c->scores, c->score_scales, a->padded_size, a->key_terms, add);
    a->unit->multiply(u, c->v_tangent, a->key_terms, c->v_tangent_rows, c->weights + p * panel * a->key_terms,
                      c->weight_scales + p * panel, a->padded_size, a->key_terms, true);
}
