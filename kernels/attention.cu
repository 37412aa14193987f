/* kernels/attention.cu
 *
 * y = softmax(q kt / sqrt(size)) v for each head of each lane; the matrix of scores is never stored.
 *
 * Idea (Dao, "FlashAttention-2", 2023). A warp owns 16 queries. Keys and values arrive in tiles; each query keeps its
 * largest score so far, the sum of its weights and its weighted sum of values, which are scaled down when a larger
 * score turns up. Scores leave the matrix units in the very layout in which weights enter them again, so they stay in
 * registers.
 *
 *     global k, v ── copy_async, one tile ahead ─► shared: floats ── split ─► shared: pairs of 16 bits
 *     pairs ── ldmatrix ─► mma: scores = q kt ─► weights = 2^(score - largest) ── split ─► mma: sums += weights v
 *
 * Precision. Every factor is a pair (ptx.h): hi hi + hi lo + lo hi. Weights are scaled by 2^10, so that small ones and
 * low halves stay clear of half's subnormals; the sum of weights is scaled alike and cancels it. A tile's weighted sum
 * is added to the query's in float arithmetic: the matrix units round towards zero, which long chains would add up.
 *
 * Heads larger than 160 (and larger than 64 where shared memory is small, before sm_80) take the wide kernel: a block
 * owns 16 queries, its warps share out a tile's keys for the scores and the head's channels for the sums, and all
 * factors come from global memory.
 *
 * Equal bits for a lane, whatever lies beside it: tiles follow from the size of a head; lanes are grid.z. Keys that a
 * query may not see have weight 0 exactly.
 */
#include "kernels/cuda.h"

namespace
{

struct attention_args {
    struct view<float> y;
    struct view<const float> q, k, v;
    int size;     /* of a head */
    int keys_end; /* keys */
    bool causal;
    bool fours;  /* k and v may be read 16 bytes at a time */
    float scale; /* log2(e) / sqrt(size): scores become exponents of 2 */
    int chunks;  /* wide: pieces of a head's channels, each a block's */
};

enum { QUERIES = 16 }; /* of a warp */

constexpr float WEIGHT_EXPONENT = 10;

__device__ float max_over_quad(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ float sum_over_quad(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Channel `channel` of a head's row; 0 beyond its end, and 0 if there is no row. */
__device__ float channel_or_zero(const float *row, int channel, int size)
{
    return row && channel < size ? row[channel] : 0;
}

__device__ const float *head_row(const struct view<const float> &v, int lane, int position, int first_channel)
{
    return position < v.positions ? row_of(v, lane, position) + first_channel : NULL;
}

/* The left factor's fragment of rows `low` (g) and `high` (g + 8), channels [channel, channel + 16), as pairs. */
template <enum operand O>
__device__ void load_left(uint32_t (&hi)[4], uint32_t (&lo)[4], const float *low, const float *high, int channel,
                          int size)
{
    int c = channel + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *row = i % 2 ? high : low;
        int at = c + i / 2 * 8;
        split_two<O>(channel_or_zero(row, at, size), channel_or_zero(row, at + 1, size), &hi[i], &lo[i]);
    }
}

/* acc += a b, both pairs. */
template <enum operand O, int N>
__device__ void mma_pairs(float (&acc)[N][4], const uint32_t (&a_hi)[4], const uint32_t (&a_lo)[4],
                          const uint32_t (&b_hi)[N][2], const uint32_t (&b_lo)[N][2])
{
    mma_tile<O, N>(acc, a_hi, b_hi);
    mma_tile<O, N>(acc, a_hi, b_lo);
    mma_tile<O, N>(acc, a_lo, b_hi);
}

/* The state of the two queries (rows g and g + 8) that a thread shares in. Until the end, `total` covers only this
 * thread's keys. */
struct progress {
    float largest[2], total[2];
};

/* Turns scores into weights, in place; shrink: the factor for earlier sums. */
template <int TILES>
__device__ void weigh(struct progress *p, float (&scores)[TILES][4], float (&shrink)[2], float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = p->largest[r];
#pragma unroll
        for (int n = 0; n < TILES; n++)
            largest = fmaxf(largest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        largest = max_over_quad(largest);
        shrink[r] = exp2f((p->largest[r] - largest) * scale);
        float from = WEIGHT_EXPONENT - largest * scale, total = 0;
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++)
                total += scores[n][i] = exp2f(fmaf(scores[n][i], scale, from));
        p->largest[r] = largest;
        p->total[r] = fmaf(p->total[r], shrink[r], total);
    }
}

/* Gives keys of the tile at `first` that rows `query` and `query + 8` may not see a score below all others. */
template <int TILES>
__device__ void hide_keys(float (&scores)[TILES][4], const struct attention_args &a, int first, int query)
{
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = first + n * 8 + (int)threadIdx.x % 4 * 2 + i % 2, end = a.keys_end;
            if (a.causal)
                end = min(end, query + i / 2 * 8 + 1);
            if (key >= end)
                scores[n][i] = -INFINITY;
        }
}

/* Keys that some query of [first, first + count) sees. */
__device__ int keys_seen(const struct attention_args &a, int first, int count)
{
    return a.causal ? min(a.keys_end, first + count) : a.keys_end;
}

/* -------------------------------------------------------------------------------- heads to 160 */

/* SIZE: the head's channels, rounded up to a multiple of 8. DEPTH: the same, rounded up to whole steps of the matrix
 * units. */
template <int SIZE> struct shape {
    static const int DEPTH = (SIZE + 15) / 16 * 16;
    static const int KEYS = SIZE <= 80 ? 32 : 16;
    static const int WARPS = SIZE <= 40 ? 6 : SIZE <= 80 ? 4 : 3;
    static const int STEPS = DEPTH / 16;
    static const int STRIDE = DEPTH + 8; /* 16-byte pieces of a row: an odd number, so that 8 rows share no bank */
    static const int PIECES = KEYS * DEPTH / 4;
    static const int THREADS = 32 * WARPS;
    static const int BLOCKS = SIZE <= 40 ? 2 : 1; /* blocks that registers must leave room for on a multiprocessor */
    static const bool PARKED = SIZE > 80;         /* queries do not fit in registers together with the sums */
};

enum { K, V };

template <int SIZE> struct pairs {
    uint16_t hi[2][shape<SIZE>::KEYS][shape<SIZE>::STRIDE], lo[2][shape<SIZE>::KEYS][shape<SIZE>::STRIDE];
};

template <int SIZE> struct attention_shared {
    typedef struct shape<SIZE> S;
    float raw[2][S::KEYS][S::DEPTH];
    struct pairs<SIZE> pairs[2]; /* of this tile and, by warps that are late, of the one before */
    uint4 queries[S::PARKED ? S::STEPS * 2 * S::THREADS : 1];
};

/* The warp's queries as fragments: in registers, or in shared memory, where each thread has its own places. */
template <int SIZE> struct queries {
    uint32_t hi[shape<SIZE>::PARKED ? 1 : shape<SIZE>::STEPS][4], lo[shape<SIZE>::PARKED ? 1 : shape<SIZE>::STEPS][4];
    uint4 *parked;
};

template <enum operand O, int SIZE>
__device__ void load_queries(struct queries<SIZE> *q, const struct attention_args &a, int query, int lane, int head)
{
    typedef struct shape<SIZE> S;
    const float *low = head_row(a.q, lane, query, head * a.size), *high = head_row(a.q, lane, query + 8, head * a.size);
#pragma unroll
    for (int k = 0; k < S::STEPS; k++) {
        int held = S::PARKED ? 0 : k;
        load_left<O>(q->hi[held], q->lo[held], low, high, k * 16, a.size);
        if (S::PARKED) {
            const uint32_t *hi = q->hi[0], *lo = q->lo[0];
            q->parked[(2 * k) * S::THREADS] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
            q->parked[(2 * k + 1) * S::THREADS] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
        }
    }
}

__device__ void unpark(uint32_t (&to)[4], const uint4 &from)
{
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
}

/* acc += channels [16 k, 16 k + 16) of the queries times a tile's. */
template <enum operand O, int SIZE>
__device__ void mma_queries(float (&acc)[2][4], const struct queries<SIZE> &q, int k, const uint32_t (&hi)[2][2],
                            const uint32_t (&lo)[2][2])
{
    typedef struct shape<SIZE> S;
    if (S::PARKED) {
        uint32_t q_hi[4], q_lo[4];
        unpark(q_hi, q.parked[(2 * k) * S::THREADS]);
        unpark(q_lo, q.parked[(2 * k + 1) * S::THREADS]);
        mma_pairs<O, 2>(acc, q_hi, q_lo, hi, lo);
    } else {
        mma_pairs<O, 2>(acc, q.hi[k], q.lo[k], hi, lo);
    }
}

/* Starts copying the tile of keys and values at `first`; zeros beyond the last key and the last channel. Each thread
 * later splits the pieces that it copied. */
template <int SIZE>
__device__ void fetch_tile(struct attention_shared<SIZE> *s, const struct attention_args &a, int first, int lane,
                           int head)
{
    typedef struct shape<SIZE> S;
#pragma unroll 1
    for (int which = K; which <= V; which++) {
        const struct view<const float> &from = which == K ? a.k : a.v;
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < S::PIECES; i += S::THREADS) {
            int row = i / (S::DEPTH / 4), channel = i % (S::DEPTH / 4) * 4;
            bool there = first + row < a.keys_end;
            const float *at = row_of(from, lane, there ? first + row : 0) + head * a.size;
            if (a.fours)
                copy_async<16>(&s->raw[which][row][channel], at + (channel < a.size ? channel : 0),
                               there && channel < a.size);
            else
                for (int j = channel; j < channel + 4; j++)
                    copy_async<4>(&s->raw[which][row][j], at + (j < a.size ? j : 0), there && j < a.size);
        }
    }
    copy_commit();
}

template <enum operand O, int SIZE>
__device__ void split_tile(struct pairs<SIZE> *to, const struct attention_shared<SIZE> *s)
{
    typedef struct shape<SIZE> S;
#pragma unroll 1
    for (int which = K; which <= V; which++)
#pragma unroll 2
        for (int i = (int)threadIdx.x; i < S::PIECES; i += S::THREADS) {
            int row = i / (S::DEPTH / 4), channel = i % (S::DEPTH / 4) * 4;
            float4 x = *(const float4 *)&s->raw[which][row][channel];
            uint2 hi, lo;
            split_two<O>(x.x, x.y, &hi.x, &lo.x);
            split_two<O>(x.z, x.w, &hi.y, &lo.y);
            *(uint2 *)&to->hi[which][row][channel] = hi;
            *(uint2 *)&to->lo[which][row][channel] = lo;
        }
}

template <int N> __device__ void in_twos(uint32_t (&two)[N][2], const uint32_t (&four)[4])
{
    for (int i = 0; i < 2 * N; i++)
        two[i / 2][i % 2] = four[i];
}

/* Scores of the warp's queries with the tile's keys. */
template <enum operand O, int SIZE>
__device__ void score(float (&scores)[shape<SIZE>::KEYS / 8][4], const struct pairs<SIZE> *s,
                      const struct queries<SIZE> &q)
{
    typedef struct shape<SIZE> S;
    int row = (int)threadIdx.x % 32 / 16 * 8 + (int)threadIdx.x % 8, column = (int)threadIdx.x % 16 / 8 * 8;
#pragma unroll
    for (int n = 0; n < S::KEYS / 16; n++) {
        float acc[2][4] = {};
#pragma unroll
        for (int k = 0; k < S::STEPS; k++) {
            uint32_t four[4], hi[2][2], lo[2][2];
            load_matrices(four, &s->hi[K][n * 16 + row][k * 16 + column]);
            in_twos(hi, four);
            load_matrices(four, &s->lo[K][n * 16 + row][k * 16 + column]);
            in_twos(lo, four);
            mma_queries<O>(acc, q, k, hi, lo);
        }
        for (int i = 0; i < 8; i++)
            scores[2 * n + i / 4][i % 4] = acc[i / 4][i % 4];
    }
}

/* N tiles of 8 channels from tile n on: sums = sums * shrink + weights v. */
template <enum operand O, int SIZE, int N>
__device__ void add_channels(float (&sums)[SIZE / 8][4], const struct pairs<SIZE> *s,
                             const uint32_t (&w_hi)[shape<SIZE>::KEYS / 16][4],
                             const uint32_t (&w_lo)[shape<SIZE>::KEYS / 16][4], const float (&shrink)[2], int n)
{
    int row = (int)threadIdx.x % 16, column = n * 8 + (int)threadIdx.x % 32 / 16 * 8;
    float acc[N][4] = {};
#pragma unroll
    for (int k = 0; k < shape<SIZE>::KEYS / 16; k++) {
        uint32_t four[4], hi[N][2], lo[N][2];
        load_matrices_transposed(four, &s->hi[V][k * 16 + row][column]);
        in_twos(hi, four);
        load_matrices_transposed(four, &s->lo[V][k * 16 + row][column]);
        in_twos(lo, four);
        mma_pairs<O, N>(acc, w_hi[k], w_lo[k], hi, lo);
    }
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        sums[n + i / 4][i % 4] = fmaf(sums[n + i / 4][i % 4], shrink[i % 4 / 2], acc[i / 4][i % 4]);
}

/* sums = sums * shrink + weights v. */
template <enum operand O, int SIZE>
__device__ void add_values(float (&sums)[SIZE / 8][4], const struct pairs<SIZE> *s,
                           const float (&weights)[shape<SIZE>::KEYS / 8][4], const float (&shrink)[2])
{
    typedef struct shape<SIZE> S;
    uint32_t w_hi[S::KEYS / 16][4], w_lo[S::KEYS / 16][4];
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; k++)
        for (int i = 0; i < 4; i++)
            split_two<O>(weights[2 * k + i / 2][i % 2 * 2], weights[2 * k + i / 2][i % 2 * 2 + 1], &w_hi[k][i],
                         &w_lo[k][i]);
#pragma unroll
    for (int n = 0; n < SIZE / 8; n += 2)
        if (n + 1 < SIZE / 8)
            add_channels<O, SIZE, 2>(sums, s, w_hi, w_lo, shrink, n);
        else
            add_channels<O, SIZE, 1>(sums, s, w_hi, w_lo, shrink, n);
}

/* Rows g and g + 8 of y, channels [first, end) of a head, which lie in TILES tiles of 8. */
template <int TILES>
__device__ void store_sums(const struct attention_args &a, const float (&sums)[TILES][4], const float (&share)[2],
                           int query, int lane, int head, int first, int end)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (query + 8 * r >= a.y.positions)
            continue;
        float *to = row_of(a.y, lane, query + 8 * r) + head * a.size;
#pragma unroll
        for (int n = 0; n < TILES; n++)
            for (int i = 0; i < 2; i++) {
                int channel = first + n * 8 + (int)threadIdx.x % 4 * 2 + i;
                if (channel < end)
                    to[channel] = sums[n][2 * r + i] * share[r];
            }
    }
}

/* Block: WARPS x 16 queries of one head of one lane. */
template <enum operand O, int SIZE>
__global__ void __launch_bounds__(shape<SIZE>::THREADS, shape<SIZE>::BLOCKS) attend(const struct attention_args a)
{
    typedef struct shape<SIZE> S;
    struct attention_shared<SIZE> *s = (struct attention_shared<SIZE> *)shared_memory;
    int head = (int)blockIdx.y, lane = (int)blockIdx.z, block = (int)blockIdx.x * S::WARPS * QUERIES;
    int warp = block + (int)threadIdx.x / 32 * QUERIES, query = warp + (int)threadIdx.x % 32 / 4;
    int end = keys_seen(a, block, S::WARPS * QUERIES), warp_end = keys_seen(a, warp, QUERIES);
    fetch_tile(s, a, 0, lane, head);

    struct queries<SIZE> q;
    q.parked = s->queries + threadIdx.x;
    load_queries<O>(&q, a, query, lane, head);
    float sums[SIZE / 8][4] = {};
    struct progress p = {{-INFINITY, -INFINITY}, {0, 0}};
    for (int first = 0; first < end; first += S::KEYS) {
        struct pairs<SIZE> *tile = &s->pairs[first / S::KEYS % 2];
        copy_wait<0>();
        split_tile<O>(tile, s);
        if (first + S::KEYS < end)
            fetch_tile(s, a, first + S::KEYS, lane, head);
        __syncthreads(); // the tile is whole, and all warps are done with the one before
        if (first >= warp_end)
            continue;
        float scores[S::KEYS / 8][4], shrink[2];
        score<O>(scores, tile, q);
        if (first + S::KEYS > a.keys_end || (a.causal && first + S::KEYS > warp))
            hide_keys(scores, a, first, query);
        weigh(&p, scores, shrink, a.scale);
        add_values<O>(sums, tile, scores, shrink);
    }
    float share[2];
    for (int r = 0; r < 2; r++)
        share[r] = 1 / sum_over_quad(p.total[r]);
    store_sums(a, sums, share, query, lane, head, 0, a.size);
}

/* -------------------------------------------------------------------------------- wide heads */

enum {
    WIDE_WARPS = 8,
    WIDE_THREADS = 32 * WIDE_WARPS,
    WIDE_KEYS = 8 * WIDE_WARPS, /* of a tile: 8 for each warp to score */
    WIDE_TILES = 8,             /* the most tiles of 8 channels that a warp sums */
    WIDE_CHANNELS = 8 * WIDE_TILES * WIDE_WARPS,
    WIDE_STEPS = 8, /* steps of 16 channels whose products are summed in one go */
};

struct wide_shared {
    float scores[QUERIES][WIDE_KEYS];
    uint16_t hi[QUERIES][WIDE_KEYS + 8], lo[QUERIES][WIDE_KEYS + 8]; /* weights */
    float shrink[QUERIES], total[QUERIES];
};

/* Scores of all queries with the warp's 8 keys, into shared memory. */
template <enum operand O>
__device__ void wide_score(struct wide_shared *s, const struct attention_args &a, int first, int query, int lane,
                           int head)
{
    int own = (int)threadIdx.x / 32 * 8, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const float *low = head_row(a.q, lane, query, head * a.size), *high = head_row(a.q, lane, query + 8, head * a.size);
    const float *key = head_row(a.k, lane, first + own + g, head * a.size);
    float sums[1][4] = {};
    for (int c = 0; c < a.size; c += 16 * WIDE_STEPS) {
        float acc[1][4] = {};
        for (int k = c; k < c + 16 * WIDE_STEPS && k < a.size; k += 16) {
            uint32_t q_hi[4], q_lo[4], k_hi[1][2], k_lo[1][2];
            load_left<O>(q_hi, q_lo, low, high, k, a.size);
            for (int i = 0; i < 2; i++) {
                int at = k + 8 * i + 2 * t;
                split_two<O>(channel_or_zero(key, at, a.size), channel_or_zero(key, at + 1, a.size), &k_hi[0][i],
                             &k_lo[0][i]);
            }
            mma_pairs<O, 1>(acc, q_hi, q_lo, k_hi, k_lo);
        }
        for (int i = 0; i < 4; i++)
            sums[0][i] += acc[0][i];
    }
    hide_keys(sums, a, first + own, query);
    for (int i = 0; i < 4; i++)
        s->scores[g + i / 2 * 8][own + 2 * t + i % 2] = sums[0][i];
}

__device__ float max_over_warp(float x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    return x;
}

/* Weights of the warp's two queries, one after the other; a thread has two keys. */
template <enum operand O> __device__ void wide_weigh(struct wide_shared *s, struct progress *p, float scale)
{
    int thread = (int)threadIdx.x % 32;
    for (int r = 0; r < 2; r++) {
        int query = (int)threadIdx.x / 32 * 2 + r;
        float2 scores = *(const float2 *)&s->scores[query][2 * thread];
        float largest = fmaxf(p->largest[r], max_over_warp(fmaxf(scores.x, scores.y)));
        float shrink = exp2f((p->largest[r] - largest) * scale), from = WEIGHT_EXPONENT - largest * scale;
        float x = exp2f(fmaf(scores.x, scale, from)), y = exp2f(fmaf(scores.y, scale, from));
        split_two<O>(x, y, (uint32_t *)&s->hi[query][2 * thread], (uint32_t *)&s->lo[query][2 * thread]);
        p->largest[r] = largest;
        p->total[r] = fmaf(p->total[r], shrink, x + y);
        if (thread == 0)
            s->shrink[query] = shrink;
    }
}

/* Adds the tile's values to the warp's tiles of channels from `channel` on. */
template <enum operand O>
__device__ void wide_add(float (&sums)[WIDE_TILES][4], const struct wide_shared *s, const struct attention_args &a,
                         int first, int lane, int head, int channel, int tiles)
{
    int thread = (int)threadIdx.x % 32, g = thread / 4, t = thread % 4;
    uint32_t w_hi[WIDE_KEYS / 16][4], w_lo[WIDE_KEYS / 16][4];
#pragma unroll
    for (int k = 0; k < WIDE_KEYS / 16; k++) {
        load_matrices(w_hi[k], &s->hi[thread % 16][k * 16 + thread / 16 * 8]);
        load_matrices(w_lo[k], &s->lo[thread % 16][k * 16 + thread / 16 * 8]);
    }
    float shrink[2] = {s->shrink[g], s->shrink[g + 8]};
#pragma unroll
    for (int n = 0; n < WIDE_TILES; n++) {
        if (n >= tiles)
            break;
        float acc[1][4] = {};
#pragma unroll
        for (int k = 0; k < WIDE_KEYS / 16; k++) {
            uint32_t hi[1][2], lo[1][2];
            for (int i = 0; i < 2; i++) {
                int key = first + k * 16 + 8 * i + 2 * t, at = channel + n * 8 + g;
                float x = channel_or_zero(head_row(a.v, lane, key, head * a.size), at, a.size);
                float y = channel_or_zero(head_row(a.v, lane, key + 1, head * a.size), at, a.size);
                split_two<O>(x, y, &hi[0][i], &lo[0][i]);
            }
            mma_pairs<O, 1>(acc, w_hi[k], w_lo[k], hi, lo);
        }
        for (int i = 0; i < 4; i++)
            sums[n][i] = fmaf(sums[n][i], shrink[i / 2], acc[0][i]);
    }
}

/* Block: 16 queries and up to WIDE_CHANNELS channels of one head of one lane. */
template <enum operand O> __global__ void __launch_bounds__(WIDE_THREADS) attend_wide(const struct attention_args a)
{
    struct wide_shared *s = (struct wide_shared *)shared_memory;
    int head = (int)blockIdx.y / a.chunks, chunk = (int)blockIdx.y % a.chunks, lane = (int)blockIdx.z;
    int block = (int)blockIdx.x * QUERIES, thread = (int)threadIdx.x % 32, g = thread / 4, query = block + g;
    int width = min(WIDE_CHANNELS, a.size - chunk * WIDE_CHANNELS);
    int tiles = (width + 8 * WIDE_WARPS - 1) / (8 * WIDE_WARPS);
    int channel = chunk * WIDE_CHANNELS + (int)threadIdx.x / 32 * 8 * tiles;

    float sums[WIDE_TILES][4] = {};
    struct progress p = {{-INFINITY, -INFINITY}, {0, 0}};
    int end = keys_seen(a, block, QUERIES);
    for (int first = 0; first < end; first += WIDE_KEYS) {
        wide_score<O>(s, a, first, query, lane, head);
        __syncthreads();
        wide_weigh<O>(s, &p, a.scale);
        __syncthreads();
        wide_add<O>(sums, s, a, first, lane, head, channel, tiles);
    }
    for (int r = 0; r < 2; r++) {
        float total = p.total[r];
        for (int lanes = 16; lanes > 0; lanes /= 2)
            total += __shfl_xor_sync(0xffffffffu, total, lanes);
        if (thread == 0)
            s->total[(int)threadIdx.x / 32 * 2 + r] = total;
    }
    __syncthreads();
    float share[2] = {1 / s->total[g], 1 / s->total[g + 8]};
    store_sums(a, sums, share, query, lane, head, channel, min(a.size, channel + 8 * tiles));
}

/* -------------------------------------------------------------------------------- launching */

template <enum operand O, int SIZE> void start(struct device *device, int heads, const struct attention_args &a)
{
    typedef struct shape<SIZE> S;
    dim3 grid((unsigned)blocks_for(a.q.positions, S::WARPS * QUERIES), (unsigned)heads, (unsigned)a.q.lanes);
    launch(device, "attend", attend<O, SIZE>, grid, S::THREADS, sizeof(struct attention_shared<SIZE>), a);
}

template <enum operand O> void start_wide(struct device *device, int heads, struct attention_args a)
{
    a.chunks = (int)blocks_for(a.size, WIDE_CHANNELS);
    dim3 grid((unsigned)blocks_for(a.q.positions, QUERIES), (unsigned)(heads * a.chunks), (unsigned)a.q.lanes);
    launch(device, "attend_wide", attend_wide<O>, grid, WIDE_THREADS, sizeof(struct wide_shared), a);
}

template <enum operand O> void choose(struct device *device, int heads, const struct attention_args &a)
{
    static const struct {
        int most, capability; /* largest head, and the compute capability whose shared memory it needs */
        void (*start)(struct device *device, int heads, const struct attention_args &a);
    } kinds[] = {{32, 75, start<O, 32>},
                 {40, 75, start<O, 40>},
                 {64, 75, start<O, 64>},
                 {80, 80, start<O, 80>},
                 {160, 80, start<O, 160>}};
    for (const auto &kind : kinds)
        if (a.size <= kind.most && cuda_of(device)->capability >= kind.capability) {
            kind.start(device, heads, a);
            return;
        }
    start_wide<O>(device, heads, a);
}

bool readable_in_fours(struct tensor t, int64_t size)
{
    return (uintptr_t)tensor_data(t) % 16 == 0 && t.row_stride % 4 == 0 && t.lane_stride % 4 == 0 && size % 4 == 0;
}

} // namespace

void cuda_attention(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                    int64_t heads, bool causal)
{
    int64_t size = q.channels / heads;
    struct attention_args a = {};
    a.y = view_of<float>(y);
    a.q = view_of<const float>(q);
    a.k = view_of<const float>(k);
    a.v = view_of<const float>(v);
    a.size = (int)size;
    a.keys_end = a.k.positions;
    a.causal = causal;
    a.fours = readable_in_fours(k, size) && readable_in_fours(v, size);
    a.scale = (float)(1.4426950408889634 / sqrt((double)size));
    if (cuda_of(device)->operand == HALF)
        choose<HALF>(device, (int)heads, a);
    else
        choose<BFLOAT>(device, (int)heads, a);
}
