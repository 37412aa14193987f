/* kernels/attention_tangent.cu
 *
 * Attention in a program with tangents, for heads of up to 160 channels; the idea that it shares with
 * attention_tangent_wide.cu is in attention_tangent.h.
 *
 * Idea. As in attention.cu, a warp owns 16 queries, and a block's warps share the tiles of keys and values: those of the
 * primal (0) and of some of its tangents (1, 2, ..). Fragments of k and v are loaded once for all of them:
 *
 *     numbers ── copy_async, one tile ahead ─► shared: k, v, k.1, v.1, ..
 *     ldmatrix ─► mma: scores[0] = q kt, scores[i] = q. kt + q k.t ─► p, p (s. - mean') ── round ─► weights[0], [i]
 *     ldmatrix ─► mma: sums[0] += weights[0] v, sums[i] += weights[i] v + weights[0] v.
 *
 * A warp's registers are as in attention.cu, scores, weights and sums once for the primal and for each tangent.
 */
#include "kernels/attention_tangent.h"

namespace
{

enum { WARPS = 8, THREADS = 32 * WARPS, LEAST_WARPS = 2 }; /* of a block */

/* MOST: the most channels of a head, a multiple of 8. */
template <int MOST, int P> struct shape {
    static const int PARTS = P;
    static const int STEPS = (MOST + 15) / 16;            /* of the matrix units: 16 channels */
    static const int TILES = MOST / 8;                    /* of sums: 8 channels */
    static const int KEYS = MOST * PARTS <= 80 ? 32 : 16; /* of a tile */
    static const int PIECES = 2 * STEPS;                  /* of 16 bytes in a row */
    static const int STRIDE = 16 * STEPS + 8;             /* an odd number of pieces, so that 8 rows share no bank */
    static const bool HELD = MOST * PARTS <= 64;          /* registers hold the primal's queries */
    static const int GROUP = MOST <= 40 ? 4 - PARTS : MOST <= 80 ? 3 - PARTS : 1;
};

template <class S> struct tile {
    uint16_t numbers[S::PARTS][S::KEYS][S::STRIDE];
};

/* A block's lanes: the primal (0) and tangents. In shared memory two stages of 2 (1 + group) tiles follow, then the
 * queries. */
template <class S> struct alignas(16) block_lanes {
    int count;  /* tangents; -1: there is nothing to do */
    bool leads; /* the block stores y of the primal, too */
    int lane[1 + S::GROUP];
    float unit[1 + S::GROUP];
    const uint16_t *from[2 * (1 + S::GROUP)][S::PARTS]; /* keys and values of each */
};

/* Which lanes a place in the grid has; called by one thread. A primal's has its first tangents, and each further group
 * has the place of its first tangent. */
template <class S> __device__ void choose_lanes(struct block_lanes<S> *s, const struct tangent_args &t, int place)
{
    int before = 0, count = 0, primal = t.of[place];
    for (int lane = t.primal; lane < place; lane++)
        before += t.of[lane] == primal;
    s->leads = place < t.primal;
    s->lane[0] = primal;
    bool mine = s->leads || (before > 0 && before % t.group == 0);
    for (int lane = max(place, t.primal); mine && lane < t.lanes && count < t.group; lane++)
        if (t.of[lane] == primal)
            s->lane[1 + count++] = lane;
    s->count = mine ? count : -1;
}

/* Fills in the rest of s: units, and where keys and values come from. */
template <class S> __device__ void look_up(struct block_lanes<S> *s, const struct tangent_args &t, int head)
{
    for (int i = (int)threadIdx.x / 32; i <= s->count; i += (int)blockDim.x / 32) {
        float unit = i == 0 ? 1 : unit_of(t, s->lane[i]);
        if (threadIdx.x % 32 == 0)
            s->unit[i] = unit;
    }
    for (int i = (int)threadIdx.x; i < 2 * (1 + s->count) * S::PARTS; i += (int)blockDim.x) {
        int which = i / S::PARTS, part = i % S::PARTS;
        s->from[which][part] = numbers_of(t, which % 2, part, s->lane[which / 2], head);
    }
}

/* Starts copying the tiles at key `first`; zeros beyond the last key and the last channel. */
template <class S>
__device__ void fetch_tiles(struct tile<S> *stage, const struct block_lanes<S> *s, const struct tangent_args &t,
                            int first)
{
    int pieces = 2 * (1 + s->count) * S::PARTS * S::KEYS * S::PIECES;
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < pieces; i += (int)blockDim.x) {
        int row = i / S::PIECES, channel = i % S::PIECES * 8, which = row / S::KEYS, key = first + row % S::KEYS;
        bool there = key < t.a.keys_end && channel < t.depth;
        const uint16_t *from = s->from[which / S::PARTS][which % S::PARTS];
        copy_async<16>(stage->numbers[0][0] + row * S::STRIDE + channel, from + (there ? key * t.depth + channel : 0),
                       there);
    }
    copy_commit();
}

/* A thread's part of a fragment of the queries of lane i. Each thread has places of its own in shared memory. */
template <class S> __device__ uint4 *place_of(uint4 *queries, int i, int step, int part)
{
    return queries + ((i * S::STEPS + step) * S::PARTS + part) * (int)blockDim.x + threadIdx.x;
}

template <class S> __device__ void take_queries(uint32_t (&to)[S::PARTS][4], uint4 *queries, int i, int step)
{
#pragma unroll
    for (int part = 0; part < S::PARTS; part++) {
        uint4 from = *place_of<S>(queries, i, step, part);
        to[part][0] = from.x;
        to[part][1] = from.y;
        to[part][2] = from.z;
        to[part][3] = from.w;
    }
}

template <enum operand O, class S>
__device__ void park_queries(uint4 *queries, const struct block_lanes<S> *s, const struct tangent_args &t, int query,
                             int head)
{
    for (int i = 0; i <= (t.moves ? s->count : 0); i++) {
        const float *low = head_row(t.a.q, s->lane[i], query, head * t.a.size);
        const float *high = head_row(t.a.q, s->lane[i], query + 8, head * t.a.size);
        for (int step = 0; step < S::STEPS; step++) {
            uint32_t left[S::PARTS][4];
            load_queries<O>(left, low, high, step * 16, t.a.size, s->unit[i]);
            for (int part = 0; part < S::PARTS; part++)
                *place_of<S>(queries, i, step, part) =
                    make_uint4(left[part][0], left[part][1], left[part][2], left[part][3]);
        }
    }
}

/* Right factors of scores: channels [16 step, 16 step + 16) of a tile's keys. */
template <class S>
__device__ void load_keys(uint32_t (&to)[S::PARTS][S::KEYS / 8][2], const struct tile<S> &keys, int step)
{
    int row = (int)threadIdx.x % 32 / 16 * 8 + (int)threadIdx.x % 8, column = (int)threadIdx.x % 16 / 8 * 8;
#pragma unroll
    for (int part = 0; part < S::PARTS; part++)
#pragma unroll
        for (int n = 0; n < S::KEYS / 16; n++) {
            uint32_t four[4];
            load_matrices(four, &keys.numbers[part][n * 16 + row][step * 16 + column]);
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[part][2 * n + i / 2][i % 2] = four[i];
        }
}

/* scores[0] = q kt, scores[i] = q. kt + q k.t */
template <enum operand O, class S, int COUNT>
__device__ void score(float (&scores)[1 + COUNT][S::KEYS / 8][4], const struct tile<S> *stage, uint4 *queries,
                      uint32_t (&primal)[S::STEPS][S::PARTS][4], bool moves)
{
#pragma unroll
    for (int step = 0; step < S::STEPS; step++) {
        uint32_t tangent[S::PARTS][4], right[S::PARTS][S::KEYS / 8][2];
        if (!S::HELD)
            take_queries<S>(primal[step], queries, 0, step);
        load_keys<S>(right, stage[0], step);
        multiply<O>(scores[0], primal[step], right);
        if (moves)
#pragma unroll
            for (int i = 1; i <= COUNT; i++) {
                take_queries<S>(tangent, queries, i, step);
                multiply<O>(scores[i], tangent, right);
            }
#pragma unroll
        for (int i = 1; i <= COUNT; i++) {
            load_keys<S>(right, stage[2 * i], step);
            multiply<O>(scores[i], primal[step], right);
        }
    }
}

/* Turns scores into p (s. - mean'), in place; moved: mean' - mean. `shares`: 1 / sum of p. */
template <int TILES>
__device__ void centre(float (&mean)[2], float (&moved)[2], float (&scores)[TILES][4], const float (&weights)[TILES][4],
                       const float (&shares)[2], float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float off = 0;
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++)
                off = fmaf(weights[n][i], fmaf(scores[n][i], scale, -mean[r]), off);
        moved[r] = __fmul_rn(sum_over_quad(off), shares[r]); // never fused, whatever is computed beside it
        mean[r] = __fadd_rn(mean[r], moved[r]);
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++)
                scores[n][i] = __fmul_rn(weights[n][i], fmaf(scores[n][i], scale, -mean[r]));
    }
}

/* Scores' layout is that of a left factor. */
template <enum operand O, class S>
__device__ void round_weights(uint32_t (&to)[S::KEYS / 16][S::PARTS][4], const float (&weights)[S::KEYS / 8][4])
{
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            round_two<O>(weights[2 * k + i / 2][i % 2 * 2], weights[2 * k + i / 2][i % 2 * 2 + 1], &to[k][0][i],
                         S::PARTS == 2 ? &to[k][S::PARTS - 1][i] : NULL);
}

/* What a warp keeps of its queries, for the primal and COUNT tangents. */
template <class S, int COUNT> struct state {
    struct softmax p;
    float mean[1 + COUNT][2], moved[1 + COUNT][2]; /* of tangents */
    float sums[1 + COUNT][S::TILES][4];            /* o, and each u */
};

/* u = shrink (u - moved o), o = shrink o. After the first tiles a larger score is rare, and nothing shrinks. */
template <class S, int COUNT> __device__ void rescale(struct state<S, COUNT> *of, const float (&shrink)[2])
{
#pragma unroll
    for (int i = 1; i <= COUNT; i++)
#pragma unroll
        for (int m = 0; m < 4 * S::TILES; m++) {
            float *u = &of->sums[i][m / 4][m % 4];
            *u = fmaf(-of->moved[i][m % 4 / 2], of->sums[0][m / 4][m % 4], *u);
        }
    if (!__any_sync(0xffffffffu, shrink[0] != 1 || shrink[1] != 1))
        return;
#pragma unroll
    for (int i = 0; i <= COUNT; i++)
#pragma unroll
        for (int m = 0; m < 4 * S::TILES; m++)
            of->sums[i][m / 4][m % 4] *= shrink[m % 4 / 2];
}

/* Adds a tile's values to N tiles of 8 channels, from tile n on. Pairs add up in float arithmetic, since the matrix units
 * round towards zero. */
template <enum operand O, class S, int COUNT, int N>
__device__ void add_channels(struct state<S, COUNT> *of, const struct tile<S> *stage,
                             const uint32_t (&weights)[1 + COUNT][S::KEYS / 16][S::PARTS][4], int n)
{
    constexpr int STEPS = 2 / N; // of 16 keys in one load
    static_assert(S::KEYS % (16 * STEPS) == 0, "whole loads");
    int thread = (int)threadIdx.x % 32, row = thread % (16 * STEPS), column = n * 8 + thread / (16 * STEPS) * 8;
    float acc[1 + COUNT][N][4];
#pragma unroll
    for (int i = 0; i <= COUNT; i++)
#pragma unroll
        for (int m = 0; m < 4 * N; m++)
            acc[i][m / 4][m % 4] = S::PARTS == 1 ? of->sums[i][n + m / 4][m % 4] : 0;
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; k += STEPS)
#pragma unroll
        for (int i = 0; i <= COUNT; i++) {
            uint32_t right[STEPS][S::PARTS][N][2];
#pragma unroll
            for (int part = 0; part < S::PARTS; part++) {
                uint32_t four[4];
                load_matrices_transposed(four, &stage[2 * i + 1].numbers[part][k * 16 + row][column]);
#pragma unroll
                for (int j = 0; j < 4; j++)
                    right[j / (2 * N)][part][j / 2 % N][j % 2] = four[j];
            }
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                multiply<O>(acc[i], weights[0][k + step], right[step]);
#pragma unroll
                for (int j = 1; i == 0 && j <= COUNT; j++)
                    multiply<O>(acc[j], weights[j][k + step], right[step]);
            }
        }
#pragma unroll
    for (int i = 0; i <= COUNT; i++)
#pragma unroll
        for (int m = 0; m < 4 * N; m++) {
            float *sum = &of->sums[i][n + m / 4][m % 4];
            *sum = S::PARTS == 1 ? acc[i][m / 4][m % 4] : *sum + acc[i][m / 4][m % 4];
        }
}

/* Adds a tile: its scores become weights, and these multiply its values. */
template <enum operand O, class S, int COUNT>
__device__ void add_tile(struct state<S, COUNT> *of, const struct tile<S> *stage,
                         float (&scores)[1 + COUNT][S::KEYS / 8][4], const struct attention_args &a)
{
    float shrink[2], scale = CALM * rsqrtf((float)a.size);
    uint32_t weights[1 + COUNT][S::KEYS / 16][S::PARTS][4];
    weigh(&of->p, scores[0], shrink, a.scale);
    float shares[2] = {__fdividef(1, sum_over_quad(of->p.total[0])), __fdividef(1, sum_over_quad(of->p.total[1]))};
#pragma unroll
    for (int i = 1; i <= COUNT; i++)
        centre(of->mean[i], of->moved[i], scores[i], scores[0], shares, scale);
#pragma unroll
    for (int i = 0; i <= COUNT; i++)
        round_weights<O, S>(weights[i], scores[i]);
    rescale(of, shrink);
#pragma unroll
    for (int n = 0; n + 2 <= S::TILES; n += 2)
        add_channels<O, S, COUNT, 2>(of, stage, weights, n);
    if constexpr (S::TILES % 2)
        add_channels<O, S, COUNT, 1>(of, stage, weights, S::TILES - 1);
}

/* All keys, for COUNT tangents. */
template <enum operand O, class S, int COUNT>
__device__ void attend_lanes(struct block_lanes<S> *s, const struct tangent_args &t)
{
    struct tile<S> *tiles = (struct tile<S> *)(s + 1);
    int head = (int)blockIdx.y, rows = (int)blockDim.x / 32 * QUERIES, block = (int)blockIdx.x * rows;
    int warp = block + (int)threadIdx.x / 32 * QUERIES, query = warp + (int)threadIdx.x % 32 / 4;
    int end = keys_seen(t.a, block, rows), warp_end = keys_seen(t.a, warp, QUERIES);
    fetch_tiles(tiles, s, t, 0);

    uint4 *queries = (uint4 *)(tiles + 4 * (1 + t.group));
    uint32_t primal[S::STEPS][S::PARTS][4];
    park_queries<O>(queries, s, t, query, head);
#pragma unroll
    for (int step = 0; S::HELD && step < S::STEPS; step++)
        take_queries<S>(primal[step], queries, 0, step);
    state<S, COUNT> of = {};
    of.p.largest[0] = of.p.largest[1] = -INFINITY;
    for (int first = 0; first < end; first += S::KEYS) {
        struct tile<S> *stage = tiles + first / S::KEYS % 2 * 2 * (1 + t.group);
        copy_wait<0>();
        __syncthreads(); // the tiles are whole, and all warps are done with those before
        if (first + S::KEYS < end)
            fetch_tiles(tiles + (first / S::KEYS + 1) % 2 * 2 * (1 + t.group), s, t, first + S::KEYS);
        if (first >= warp_end)
            continue;
        float scores[1 + COUNT][S::KEYS / 8][4] = {};
        score<O, S, COUNT>(scores, stage, queries, primal, t.moves);
        if (first + S::KEYS > t.a.keys_end || (t.a.causal && first + S::KEYS > warp))
            hide_keys(scores[0], t.a, first, query);
        add_tile<O>(&of, stage, scores, t.a);
    }
    float shares[2] = {__fdividef(1, sum_over_quad(of.p.total[0])), __fdividef(1, sum_over_quad(of.p.total[1]))};
#pragma unroll
    for (int i = 0; i <= COUNT; i++) {
        float back = i == 0 ? 1 : __fdividef(1, CALM * s->unit[i]), share[2] = {back * shares[0], back * shares[1]};
        if (i > 0 || s->leads)
            store_sums(t.a, of.sums[i], share, query, s->lane[i], head, 0, t.a.size);
    }
}

/* attend_lanes with as many tangents as the block has. */
template <enum operand O, class S, int COUNT>
__device__ void attend_count(struct block_lanes<S> *s, const struct tangent_args &t)
{
    if (s->count == COUNT)
        attend_lanes<O, S, COUNT>(s, t);
    else if constexpr (COUNT > 0)
        attend_count<O, S, COUNT - 1>(s, t);
}

/* Block: 16 queries for each of its warps, of one head, of a primal and up to t.group of its tangents. */
template <enum operand O, int MOST, int PARTS>
__global__ void __launch_bounds__(THREADS, 1) attend_tangents(const struct tangent_args t)
{
    typedef struct shape<MOST, PARTS> S;
    struct block_lanes<S> *s = (struct block_lanes<S> *)shared_memory;
    if (threadIdx.x == 0)
        choose_lanes(s, t, (int)blockIdx.z);
    __syncthreads();
    if (s->count < 0)
        return;
    look_up(s, t, (int)blockIdx.y);
    __syncthreads();
    attend_count<O, S, S::GROUP>(s, t);
}

/* -------------------------------------------------------------------------------- launcher */

template <class S> size_t shared_for(int warps, int group)
{
    size_t stages = 4 * (size_t)(1 + group) * sizeof(struct tile<S>);
    size_t parked = (size_t)(1 + group) * S::STEPS * S::PARTS * sizeof(uint4);
    return sizeof(struct block_lanes<S>) + stages + parked * (size_t)(32 * warps);
}

/* Are there enough queries for so many warps? */
bool filled(int warps, int queries)
{
    return warps == LEAST_WARPS || warps / 2 * QUERIES < queries;
}

/* With as many warps and tangents in a block as there is room and use for. False: not even one tangent fits. */
template <enum operand O, int MOST, int PARTS> bool start(struct device *device, struct tangent_args t)
{
    typedef struct shape<MOST, PARTS> S;
    size_t most = shared_room(device);
    if (shared_for<S>(LEAST_WARPS, 1) > most)
        return false;
    int warps = WARPS;
    while (!filled(warps, t.a.q.positions))
        warps /= 2;
    t.group = min(S::GROUP, t.lanes - t.primal);
    while (shared_for<S>(warps, t.group) > most)
        if (warps <= WARPS / 2 && t.group > 1)
            t.group--;
        else
            warps /= 2;
    dim3 grid((unsigned)blocks_for(t.a.q.positions, warps * QUERIES), (unsigned)t.heads, (unsigned)t.lanes);
    launch(device, "attend_tangents", attend_tangents<O, MOST, PARTS>, grid, (unsigned)(32 * warps),
           shared_for<S>(warps, t.group), t);
    return true;
}

template <enum operand O, int PARTS> void choose(struct device *device, const struct tangent_args &t)
{
    bool started = (t.a.size <= 40 && start<O, 40, PARTS>(device, t)) ||
                   (t.a.size > 40 && t.a.size <= 64 && start<O, 64, PARTS>(device, t)) ||
                   (t.a.size > 64 && t.a.size <= 80 && start<O, 80, PARTS>(device, t));
    if constexpr (PARTS == 1) // pairs of larger heads do not fit in registers
        started |= t.a.size > 80 && t.a.size <= 160 && start<O, 160, PARTS>(device, t);
    if (!started)
        attention_tangent_wide(device, t);
}

} // namespace

void attention_tangent(struct device *device, struct tensor y, struct tensor k, int64_t heads, struct attention_args a)
{
    struct gpu_attention work = gpu_attention_of(device, k, heads);
    struct tangent_args t = {};
    t.a = a;
    t.of = (const int32_t *)tensor_data(device->tangents.of);
    t.lanes = (int)y.lanes;
    t.primal = (int)primal_lanes(device, y);
    t.heads = (int)heads;
    t.moves = a.q.lanes == a.y.lanes;
    t.numbers = (uint16_t *)tensor_data(device->work);
    t.largest = (float *)((char *)tensor_data(device->work) + work.largest);
    t.parts = (int)work.parts;
    t.depth = (int)work.depth;
    attention_tangent_round(device, t);
    if (cuda_of(device)->operand == HALF)
        work.parts == 1 ? choose<HALF, 1>(device, t) : choose<HALF, 2>(device, t);
    else
        work.parts == 1 ? choose<BFLOAT, 1>(device, t) : choose<BFLOAT, 2>(device, t);
}
