/* The ops: what each requires of its tensors, and its call of the device, which a dry pass leaves out. */
#include <stdio.h>

#include "device/backend.h"

/* Is there anything to compute? Not after a wrong shape or an earlier error, and not in a dry pass. */
static bool ready(struct device *d, struct error e)
{
    if (e.code != ERROR_NONE)
        device_fail(d, e);
    return d->error.code == ERROR_NONE && !d->dry;
}

static struct error check_host(struct tensor t)
{
    return t.base ? ok() : error_failed("a tensor without memory was written or read");
}

void device_write(struct device *d, struct tensor to, const void *from)
{
    if (ready(d, check_host(to)))
        d->ops->write(d, to, from);
}

void device_read(struct device *d, void *to, struct tensor from)
{
    if (ready(d, check_host(from)))
        d->ops->read(d, to, from);
}

/* -------------------------------------------------------------------------------- tangents */

bool device_computes(const struct device *d)
{
    return d->ops->linear;
}

static struct error check_tangents(const struct device *d, const struct tangents *t)
{
    bool map = t->of.base && t->of.type == I32 && t->of.lanes == 1 && tensor_positions(t->of) == 1;
    if (!map || t->primal < 1 || t->primal > t->of.channels || !(t->scale > 0))
        return error_failed("tangents_begin: %lld primal of %lld lanes", (long long)t->primal,
                            (long long)t->of.channels);
    return d->tangents.of.base ? error_failed("tangents_begin: twice") : ok();
}

void tangents_begin(struct device *d, const struct tangents *t)
{
    struct error e = check_tangents(d, t);
    if (e.code != ERROR_NONE)
        device_fail(d, e);
    else
        d->tangents = *t;
}

void tangents_end(struct device *d)
{
    d->tangents = (struct tangents){0};
}

bool tangents_on(const struct device *d)
{
    return d->tangents.of.base;
}

/* -------------------------------------------------------------------------------- shapes */

/* Text by value, so that one message can hold two shapes. */
struct shape_text {
    char text[80];
};

static struct shape_text shape(struct tensor t)
{
    struct shape_text s;
    snprintf(s.text, sizeof s.text, "%s[%lld, %lld, %lld, %lld]", dtype_name(t.type), (long long)t.lanes,
             (long long)t.height, (long long)t.width, (long long)t.channels);
    return s;
}

static struct error wrong(const char *op, struct tensor y, struct tensor x)
{
    return error_failed("%s: shapes do not fit: %s from %s", op, shape(y).text, shape(x).text);
}

static bool usable(struct tensor t, enum dtype type)
{
    return t.base && t.type == type && t.lanes > 0 && t.height > 0 && t.width > 0 && t.channels > 0 &&
           t.row_stride >= t.channels;
}

static bool same_places(struct tensor a, struct tensor b)
{
    return a.lanes == b.lanes && tensor_positions(a) == tensor_positions(b);
}

static bool fits_map(struct tensor map, int64_t lanes, int64_t source_lanes)
{
    if (!map.base)
        return source_lanes >= lanes;
    return usable(map, I32) && map.lanes == 1 && tensor_positions(map) == 1 && map.channels == lanes;
}

static bool fits_epilogue(const struct device *d, struct tensor y, const struct weight *w, struct epilogue e)
{
    int64_t out = e.act == ACT_GEGLU ? w->out / 2 : w->out;
    if ((e.act == ACT_GEGLU) != w->gated || y.channels != out)
        return false;
    if (e.lane_bias &&
        (!usable(*e.lane_bias, F32) || (e.lane_bias->lanes != y.lanes && !only_primal(d, *e.lane_bias, y)) ||
         tensor_positions(*e.lane_bias) != 1 || e.lane_bias->channels != w->out || w->gated))
        return false;
    return !e.residual ||
           (usable(*e.residual, F32) && same_places(*e.residual, y) && e.residual->channels == y.channels);
}

/* -------------------------------------------------------------------------------- networks */

static bool is_product(const struct weight *w)
{
    return w && !w->table && !w->norm;
}

static struct error check_linear(const struct device *d, struct tensor y, struct tensor x, const struct weight *w,
                                 struct epilogue e)
{
    if (!is_product(w) || w->kh != 1 || w->kw != 1)
        return error_failed("op_linear: not a linear layer's weight");
    if (!usable(y, F32) || !usable(x, F32) || !same_places(y, x) || x.channels != w->in || !fits_epilogue(d, y, w, e))
        return wrong("op_linear", y, x);
    return ok();
}

/* What the tangents of a product with an act are multiplied by: act'(u) [primal lanes, .., out]; with ACT_GEGLU
 * gelu(gate), then value gelu'(gate). */
static void take_factors(struct device *d, struct tensor y, enum act act)
{
    int64_t primal = primal_lanes(d, y), count = act == ACT_NONE ? 0 : act == ACT_GEGLU ? 2 : 1;
    if (primal < y.lanes && count > 0)
        d->factors = device_alloc(d, F32, primal, y.height, y.width, count * y.channels);
}

static void free_factors(struct device *d)
{
    if (d->factors.base)
        device_free(d, &d->factors);
}

/* For products of tangents in 8 bits: x's codes, and the scale of each block (and what belongs to it) [tangent lanes,
 * .., blocks]. They are taken whether or not the family uses codes just now, so that a program need not be made anew. */
static void take_codes(struct device *d, struct tensor y, struct tensor x, const struct weight *w, const struct conv *c)
{
    int family = c ? CODES_CONV : CODES_LINEAR;
    int64_t primal = primal_lanes(d, y), tangents = y.lanes - primal;
    if (tangents == 0 || d->tangent_bits != 8 || !d->ops->code_blocks || !is_product(w) || !(w->type == I8 || w->group))
        return;
    struct coded *product = coded_product(d, w); // even if it takes no codes, which depends on shapes and processor
    int64_t blocks = product ? d->ops->code_blocks(d, y, w, c) : 0;
    if (blocks == 0)
        return;
    if (!d->ops->product_work) {
        d->codes = device_alloc(d, I8, tangents, x.height, x.width, x.channels);
        d->code_rows = device_alloc(d, I64, tangents, x.height, x.width, blocks);
    }
    d->coded = product;
    d->encodes = !(d->no_codes & family);
    if (!d->dry && !d->encodes)
        find_outliers(d, product, x, primal);
}

static void take_bytes(struct device *d, int64_t bytes)
{
    if (bytes > 0)
        d->work = device_alloc(d, U8, 1, 1, 1, bytes);
}

static void free_bytes(struct device *d)
{
    if (d->work.base)
        device_free(d, &d->work);
}

/* A GPU's: x rounded for the matrix units, of all lanes. */
static void take_work(struct device *d, struct tensor y, struct tensor x, const struct weight *w)
{
    if (d->ops->product_work && tangents_on(d) && is_product(w))
        take_bytes(d, d->ops->product_work(d, y, x, w, d->coded));
}

/* Frees what take_codes and take_work have taken. */
static void free_encoded(struct device *d)
{
    free_bytes(d);
    if (d->codes.base) {
        device_free(d, &d->code_rows);
        device_free(d, &d->codes);
    }
    d->coded = NULL;
    d->encodes = false;
}

void op_linear(struct device *d, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e)
{
    take_factors(d, y, e.act);
    take_codes(d, y, x, w, NULL);
    take_work(d, y, x, w);
    if (ready(d, check_linear(d, y, x, w, e)))
        d->ops->linear(d, y, x, w, e);
    watch_op(d, "op_linear", y, x);
    free_encoded(d);
    free_factors(d);
}

static struct error check_conv(const struct device *d, struct tensor y, struct tensor x, const struct weight *w,
                               struct conv c, struct epilogue e)
{
    if (!is_product(w))
        return error_failed("op_conv: not a convolution's weight");
    if (!usable(y, F32) || !usable(x, F32) || y.lanes != x.lanes || x.channels != w->in || !fits_epilogue(d, y, w, e) ||
        c.stride < 1 || c.pad < 0 || (c.up && c.stride != 1))
        return wrong("op_conv", y, x);
    return ok();
}

void op_conv(struct device *d, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
             struct epilogue e)
{
    take_factors(d, y, e.act);
    take_codes(d, y, x, w, &c);
    take_work(d, y, x, w);
    if (ready(d, check_conv(d, y, x, w, c, e)))
        d->ops->conv(d, y, x, w, c, e);
    watch_op(d, "op_conv", y, x);
    free_encoded(d);
    free_factors(d);
}

static struct error check_norm(struct tensor y, struct tensor x, const struct weight *w, int64_t groups, enum act act)
{
    if (!w || !w->norm || w->out != x.channels || x.channels > NORM_CHANNELS || groups < 0 ||
        (groups > 0 && x.channels % groups != 0) || (act != ACT_NONE && act != ACT_SILU))
        return error_failed("op_norm: weight, groups or act do not fit %s", shape(x).text);
    if (!usable(y, F32) || !usable(x, F32) || !same_places(y, x) || y.channels != x.channels)
        return wrong("op_norm", y, x);
    return ok();
}

void op_norm(struct device *d, struct tensor y, struct tensor x, const struct weight *w, int64_t groups, float eps,
             enum act act)
{
    if (ready(d, check_norm(y, x, w, groups, act)))
        d->ops->norm(d, y, x, w, groups, eps, act);
    watch_op(d, "op_norm", y, x);
}

static struct error check_attention(const struct device *d, struct tensor y, struct tensor q, struct tensor k,
                                    struct tensor v, int64_t heads, bool causal)
{
    enum { LARGEST_HEAD = 2048 };
    if (!usable(y, F32) || !usable(q, F32) || (q.lanes != y.lanes && !only_primal(d, q, y)) ||
        tensor_positions(y) != tensor_positions(q) || y.channels != q.channels)
        return wrong("op_attention", y, q);
    if (!usable(k, F32) || !usable(v, F32) || !same_places(k, v) || k.lanes != y.lanes || k.channels != q.channels ||
        v.channels != q.channels || (causal && tensor_positions(k) != tensor_positions(q)))
        return wrong("op_attention", k, v);
    if (heads < 1 || q.channels % heads != 0 || q.channels / heads > LARGEST_HEAD)
        return error_failed("op_attention: %s cannot be cut into %lld heads", shape(q).text, (long long)heads);
    return ok();
}

void op_attention(struct device *d, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int64_t heads,
                  bool causal)
{
    struct error e = check_attention(d, y, q, k, v, heads, causal);
    if (e.code == ERROR_NONE && d->ops->attention_work && tangents_on(d))
        take_bytes(d, d->ops->attention_work(d, k, heads)); // k and v, rounded likewise
    if (ready(d, e))
        d->ops->attention(d, y, q, k, v, heads, causal);
    watch_op(d, "op_attention", y, q);
    free_bytes(d);
}

static struct error check_copy(const struct device *d, struct tensor y, struct tensor x, struct tensor map)
{
    if (!usable(y, y.type) || !usable(x, y.type) || tensor_positions(y) != tensor_positions(x) ||
        y.channels != x.channels || !(fits_map(map, y.lanes, x.lanes) || only_primal(d, x, y)))
        return wrong("op_copy", y, x);
    return ok();
}

void op_copy(struct device *d, struct tensor y, struct tensor x, struct tensor map)
{
    if (ready(d, check_copy(d, y, x, map)))
        d->ops->copy(d, y, x, map);
}

static struct error check_embed(struct tensor y, struct tensor ids, const struct weight *table,
                                const struct weight *places, struct tensor rows)
{
    if (!table || !places || !table->table || !places->table || table->in != y.channels || places->in != y.channels)
        return error_failed("op_embed: tables do not fit %s", shape(y).text);
    if (!usable(y, F32) || !usable(ids, I32) || !same_places(y, ids) || ids.channels != 1 ||
        tensor_positions(ids) > places->out)
        return wrong("op_embed", y, ids);
    if (!usable(rows, F32) || rows.lanes != y.lanes || rows.channels != y.channels)
        return wrong("op_embed", y, rows);
    return ok();
}

void op_embed(struct device *d, struct tensor y, struct tensor ids, const struct weight *table,
              const struct weight *positions, struct tensor rows, int64_t first)
{
    if (ready(d, check_embed(y, ids, table, positions, rows)))
        d->ops->embed(d, y, ids, table, positions, rows, first);
    watch_op(d, "op_embed", y, rows);
}

static struct error check_timestep(struct tensor y, struct tensor t)
{
    if (!usable(y, F32) || !usable(t, F32) || y.lanes != t.lanes || tensor_positions(y) != 1 ||
        tensor_positions(t) != 1 || t.channels != 1)
        return wrong("op_timestep", y, t);
    return ok();
}

void op_timestep(struct device *d, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift)
{
    if (ready(d, check_timestep(y, t)))
        d->ops->timestep(d, y, t, flip_sin_to_cos, shift);
}

static struct error check_loss(struct tensor slots, struct tensor pred, struct tensor target, struct tensor map,
                               struct tensor mask)
{
    if (!usable(slots, F64) || slots.lanes != pred.lanes || tensor_positions(slots) != 1 || slots.channels != 1)
        return wrong("op_loss", slots, pred);
    if (!usable(pred, F32) || !usable(target, F32) || pred.height != target.height || pred.width != target.width ||
        pred.channels != target.channels || !fits_map(map, pred.lanes, target.lanes))
        return wrong("op_loss", pred, target);
    bool fits = !mask.base || (usable(mask, F32) && same_places(mask, target) && mask.channels == 1);
    return fits ? ok() : wrong("op_loss", target, mask);
}

void op_loss(struct device *d, struct tensor slots, struct tensor pred, struct tensor target, struct tensor map,
             struct tensor mask)
{
    if (ready(d, check_loss(slots, pred, target, map, mask)))
        d->ops->loss(d, slots, pred, target, map, mask);
}

/* -------------------------------------------------------------------------------- a training step */

static bool dense_as(struct tensor t, enum dtype type)
{
    return usable(t, type) && t.row_stride == t.channels && t.lane_stride == tensor_positions(t) * t.channels;
}

static bool same_shape(struct tensor a, struct tensor b)
{
    return a.lanes == b.lanes && a.height == b.height && a.width == b.width && a.channels == b.channels;
}

static bool is_scalar(struct tensor t, enum dtype type, int64_t count)
{
    return dense_as(t, type) && t.lanes == 1 && tensor_positions(t) == 1 && t.channels == count;
}

static struct error check_draw(struct tensor y, struct tensor step)
{
    return dense_as(y, F32) && is_scalar(step, I64, 1) ? ok() : wrong("op_draw", y, step);
}

void op_draw(struct device *d, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream)
{
    if (ready(d, check_draw(y, step)))
        d->ops->draw(d, y, step, seed, stream);
}

static struct error check_add_noise(struct tensor noisy, struct tensor target, struct tensor timesteps,
                                    const struct add_noise *n)
{
    if (!dense_as(noisy, F32) || !dense_as(target, F32) || !same_shape(noisy, target))
        return wrong("op_add_noise", noisy, target);
    if (!dense_as(n->moments, F32) || tensor_positions(n->moments) != tensor_positions(noisy) ||
        n->moments.channels != 2 * noisy.channels)
        return wrong("op_add_noise", noisy, n->moments);
    if (n->posterior.base && (!dense_as(n->posterior, F32) || !same_shape(n->noise, n->posterior)))
        return wrong("op_add_noise", n->noise, n->posterior);
    if (!dense_as(n->noise, F32) || tensor_positions(n->noise) != tensor_positions(noisy) ||
        n->noise.channels != noisy.channels)
        return wrong("op_add_noise", noisy, n->noise);
    if (!dense_as(n->choice, I32) || n->choice.lanes != noisy.lanes || n->choice.channels != 3 ||
        !dense_as(timesteps, F32) || timesteps.lanes != noisy.lanes || !dense_as(n->levels, F32) ||
        n->levels.channels != 2)
        return wrong("op_add_noise", timesteps, n->choice);
    return ok();
}

void op_add_noise(struct device *d, struct tensor noisy, struct tensor target, struct tensor timesteps,
                  const struct add_noise *n)
{
    if (ready(d, check_add_noise(noisy, target, timesteps, n)))
        d->ops->add_noise(d, noisy, target, timesteps, n);
}

static struct error check_sum(struct tensor slots)
{
    return dense_as(slots, F64) ? ok() : wrong("op_sum", slots, slots);
}

void op_sum(struct device *d, struct tensor slots)
{
    if (ready(d, check_sum(slots)) && d->joined && !d->watches)
        d->ops->sum(d, slots);
}

static struct error check_broadcast(struct tensor t)
{
    return dense_as(t, t.type) ? ok() : wrong("op_broadcast", t, t);
}

void op_broadcast(struct device *d, struct tensor t, int root)
{
    if (ready(d, check_broadcast(t)) && d->joined && !d->watches)
        d->ops->broadcast(d, t, root);
}

/* Any number of lanes of the embedding's shape. */
static bool fits_embedding(struct tensor t, enum dtype type, struct tensor embedding)
{
    return dense_as(t, type) && tensor_positions(t) == tensor_positions(embedding) && t.channels == embedding.channels;
}

static struct error check_perturb(struct tensor rows, struct tensor embedding, struct tensor directions,
                                  struct tensor which)
{
    if (!fits_embedding(embedding, F32, embedding) || embedding.lanes != 1 || !fits_embedding(rows, F32, embedding))
        return wrong("op_perturb", rows, embedding);
    if (!fits_embedding(directions, F32, embedding) || !is_scalar(which, I32, rows.lanes))
        return wrong("op_perturb", rows, directions);
    return ok();
}

void op_perturb(struct device *d, struct tensor rows, struct tensor embedding, struct tensor directions,
                struct tensor which, double eps)
{
    if (ready(d, check_perturb(rows, embedding, directions, which)))
        d->ops->perturb(d, rows, embedding, directions, which, eps);
}

static struct error check_mix(struct tensor y, struct tensor weights, struct tensor basis)
{
    if (!dense_as(y, F32) || !dense_as(weights, F32) || y.lanes != weights.lanes ||
        tensor_positions(y) * y.channels != tensor_positions(weights) * basis.channels)
        return wrong("op_mix", y, weights);
    bool good = dense_as(basis, F32) && tensor_positions(basis) == 1 && basis.lanes == weights.channels;
    return good ? ok() : wrong("op_mix", weights, basis);
}

void op_mix(struct device *d, struct tensor y, struct tensor weights, struct tensor basis)
{
    if (ready(d, check_mix(y, weights, basis)))
        d->ops->mix(d, y, weights, basis);
}

/* What Adam's moments look like: the word, or coordinates in a basis of its space. */
static struct error check_moments(const struct update *u, struct tensor *moments)
{
    struct tensor e = u->embedding, basis = u->basis;
    *moments = basis.base ? u->coordinates : e;
    if (!basis.base)
        return ok();
    int64_t dim = tensor_positions(e) * e.channels;
    bool good = dense_as(basis, F32) && tensor_positions(basis) == 1 && basis.channels == dim &&
                is_scalar(u->coordinates, F64, basis.lanes);
    return good ? ok() : wrong("op_update", basis, u->coordinates);
}

static struct error check_update(const struct update *u)
{
    struct tensor e = u->embedding, moments;
    TRY(check_moments(u, &moments));
    if (!fits_embedding(e, F32, e) || e.lanes != 1 || !fits_embedding(u->m, F32, moments) ||
        !fits_embedding(u->v, F32, moments) || !fits_embedding(u->gradient, F64, e) ||
        !fits_embedding(u->removed, F32, e) || !fits_embedding(u->directions, F32, moments) ||
        !is_scalar(u->removed_rows, I32, 1) || !is_scalar(u->rates, F64, 3))
        return wrong("op_update", e, u->gradient);
    int64_t rows = u->directions.lanes;
    if (!dense_as(u->slots, F64) || u->slots.channels != 1 || tensor_positions(u->slots) != 1 || u->sides < 1 ||
        u->sides > (u->tangents ? 1 : 2) || (rows != u->n && rows != u->n * u->batch) ||
        u->slots.lanes < (u->sides * u->n + 1) * u->batch)
        return wrong("op_update", u->slots, u->directions);
    return ok();
}

void op_update(struct device *d, const struct update *u)
{
    if (ready(d, check_update(u)))
        d->ops->update(d, u);
}
