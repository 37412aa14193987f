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

void attention8_keys(const struct attention *a, const struct query_block *b, int64_t i, int64_t first, int64_t count)
{
    const struct attention_codes *c = &b->codes;
    int8_t *k_codes = i > 0 ? c->k_tangent : c->k, *v_codes = i > 0 ? c->v_tangent : c->v;
    struct row_codes *k_rows = i > 0 ? c->k_tangent_rows : c->k_rows;
    struct row_codes *v_rows = i > 0 ? c->v_tangent_rows : c->v_rows;
    int64_t lane = b->lanes[i], whole = round_up(count, 4), left = a->padded_size - a->size;
    for (int64_t key = 0; key < count; key++) {
        a->kernels->encode(k_codes + key * a->terms, k_rows + key, tensor_row(a->k, lane, first + key) + b->channel,
                           a->size);
        memset(k_codes + key * a->terms + a->size, 0, (size_t)(a->terms - a->size));
    }
    memset(k_codes + count * a->terms, 0, (size_t)((whole - count) * a->terms));
    memset(k_rows + count, 0, (size_t)(whole - count) * sizeof *k_rows);
    a->kernels->encode_across(v_codes, a->key_terms, v_rows, tensor_row(a->v, lane, first) + b->channel,
                              a->v.row_stride, count, a->size);
    memset(v_codes + a->size * a->key_terms, 0, (size_t)(left * a->key_terms));
    memset(v_rows + a->size, 0, (size_t)left * sizeof *v_rows);
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
