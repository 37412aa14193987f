/* device/cpu/attention.h
 *
 * One attention, as attention.c streams it, and the tangents' part of it in codes of 8 bits (attention8.c).
 */
#ifndef ZOODIP_DEVICE_CPU_ATTENTION_H
#define ZOODIP_DEVICE_CPU_ATTENTION_H

#include "device/cpu/cpu.h"

enum { ATTENTION_GROUP = 8 }; /* most tangents in a task */

/* What belongs to a task's codes. Keys and values are left sides of products, of which each row has a scale: a key's, and
 * a channel's values under a block of keys. Queries and weights are right sides in panels, of which each query has one. */
struct attention_codes {
    int8_t *k, *k_tangent;                     /* [block_keys][terms] */
    struct row_codes *k_rows, *k_tangent_rows; /* [block_keys] */
    int8_t *v, *v_tangent;                     /* [padded_size][key_terms] */
    struct row_codes *v_rows, *v_tangent_rows; /* [padded_size] */
    uint8_t *q;                                /* of each lane: [panels][terms / 4][panel][4] */
    float *q_scales;                           /* of each lane: [panels][panel] */
    uint8_t *weights, *scores;                 /* [panels] and one: [key_terms / 4][panel][4] */
    float *weight_scales, *score_scales;       /* [panels][panel], [panel] */
};

struct attention {
    const struct cpu *cpu;
    const struct kernels *kernels;
    struct tensor y, q, k, v;
    int64_t primal;    /* lanes; those after them are tangents */
    const int32_t *of; /* [y.lanes]: each lane's primal */
    bool causal;
    int64_t heads, size, padded_size; /* of a head; padded to whole tiles */
    int64_t queries, keys, block_keys;
    int64_t panels, blocks;       /* panels in a task, tasks for a head of a lane */
    int64_t group;                /* most tangents in a task */
    const struct int8_unit *unit; /* for the tangents' products; NULL: in floats */
    int64_t terms, key_terms;     /* a head's size, and block_keys, padded as the unit likes sums */
};

/* One task and its thread's scratch. A task has a primal lane and some of its tangents, in this order. */
struct query_block {
    int64_t lanes[1 + ATTENTION_GROUP], count;
    bool leads;      /* does this task write the primal's result? */
    int64_t channel; /* the head's first */
    int64_t first, panels;
    float *q, *o;      /* of each lane: [panels][size][panel] (the primal's alone where a->unit is given),
                        * [panels][padded_size][panel] */
    float *k, *v;      /* [block_keys][size], [block_keys][padded_size] */
    float *weights;    /* [panels][block_keys][panel] */
    float *statistics; /* [panels][3][panel] */

    /* The tangents' */
    float *k_tangent, *v_tangent; /* as k and v, where a->unit is not given */
    float *scores;                /* [block_keys][panel] */
    float *means;                 /* of each lane: [panels][panel] */
    float *moved;                 /* [panel]: how far the means have moved */
    struct attention_codes codes; /* where a->unit is given */
    float *q_tangent;             /* [size][panel]: one panel's, until they are codes */
};

/* attention8.c. Lays out a task's codes, for so many lanes, in `scratch` (NULL: only counts); returns their bytes. */
int64_t attention8_lay_out(const struct attention *a, struct attention_codes *codes, int64_t lanes, char *scratch);

/* Encodes what each product takes: lane i's queries of panel p [size][panel]; its keys [first, first + count) and their
 * values; the primal's weights of panel p. */
void attention8_queries(const struct attention *a, const struct query_block *b, int64_t i, int64_t p, const float *q);
void attention8_keys(const struct attention *a, const struct query_block *b, int64_t i, int64_t first, int64_t count);
void attention8_weights(const struct attention *a, const struct query_block *b, int64_t p, const float *weights,
                        int64_t count);

/* A tangent's scores [count][panel] = k q. (if it has its own queries) + k. q, and u [padded_size][panel] = (add ? u : 0)
 * + vt scores + v.t weights. */
void attention8_scores(const struct attention *a, const struct query_block *b, int64_t i, int64_t p, bool moves,
                       int64_t count);
void attention8_values(const struct attention *a, const struct query_block *b, float *u, int64_t p, int64_t count,
                       bool add);

#endif
