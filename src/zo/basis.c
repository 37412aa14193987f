#include "zo/basis.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/symmetric.h"
#include "cluster/signals.h"
#include "model/table_root.h"

static const double HELD = 0.999; /* of the trace, where zo.rank names no rank */

void basis_free(struct basis *b)
{
    memory_free(b->rows);
    *b = (struct basis){0};
}

static struct error new_rows(struct basis *b, int64_t rank, int64_t dim)
{
    basis_free(b);
    *b = (struct basis){.rank = rank, .dim = dim, .rows = memory_alloc(rank * dim, sizeof *b->rows)};
    return b->rows ? ok() : error_memory("directions");
}

/* Rank 0's basis, to all. */
static struct error share(struct basis *b, struct comm *comm)
{
    int64_t rank = b->rank;
    TRY(comm_broadcast(comm, &rank, sizeof rank, 0));
    TRY(comm_broadcast(comm, &b->held, sizeof b->held, 0));
    double held = b->held;
    TRY(comm_agree(comm, comm_rank(comm) == 0 ? ok() : new_rows(b, rank, b->dim)));
    b->held = held;
    return comm_broadcast(comm, b->rows, rank * b->dim * (int64_t)sizeof *b->rows, 0);
}

static struct error open_pool(struct pool **pool, const struct comm *comm)
{
    return pool_open(pool, pool_default_threads(comm_local_size(comm)));
}

/* -------------------------------------------------------------------------------- the token table */

struct error basis_table(struct basis *b, const struct training_parts *parts)
{
    struct comm *comm = parts->comm;
    int64_t width = parts->text->config.width;
    struct pool *pool;
    struct progress progress;
    TRY(comm_agree(comm, new_rows(b, width, width)));
    if (!device_computes(parts->device))
        return ok();
    progress_phase(&progress, "finding the token table's directions", 0, "");
    struct error e = ok();
    if (comm_rank(comm) == 0) {
        e = open_pool(&pool, comm);
        if (e.code == ERROR_NONE) {
            e = table_root_find(parts->text, parts->first_id, b->rows, pool);
            b->held = 1;
            pool_close(pool);
        }
    }
    e = comm_agree(comm, e);
    progress_end(&progress);
    return e.code == ERROR_NONE ? share(b, comm) : e;
}

/* -------------------------------------------------------------------------------- JtJ */

/* Whether no caption before has the same ids. */
static bool is_new(const struct dataset *set, int64_t caption)
{
    size_t bytes = (size_t)set->length * sizeof *set->ids;
    for (int64_t i = 0; i < caption; i++)
        if (memcmp(set->ids + i * set->length, set->ids + caption * set->length, bytes) == 0)
            return false;
    return true;
}

/* At most as many as t->captions holds, evenly spread over the different ones that steps use. */
static void choose_captions(struct text_basis *t)
{
    enum { MOST = sizeof t->captions / sizeof *t->captions };
    const struct dataset *set = t->parts.dataset;
    int64_t count = set->caption_per_picture ? set->trained : set->captions.count, different = 0, at = 0;
    for (int64_t i = 0; i < count; i++)
        different += is_new(set, i);
    t->caption_count = different < MOST ? different : MOST;
    for (int64_t i = 0, k = 0; i < count; i++)
        if (is_new(set, i) && k++ == at * different / t->caption_count && at < t->caption_count)
            t->captions[at++] = i;
}

/* Caption `mine`'s, or nothing if there is none, batch by batch, between which the ranks meet: their pieces take long. */
static struct error add_caption(struct text_basis *t, const float *embedding, int64_t mine, double *products,
                                struct progress *progress, int64_t done)
{
    const struct dataset *set = t->parts.dataset;
    for (int64_t k = 0; k < t->jacobian.batches; k++) {
        struct error e = ok();
        bool stop = signals_should_stop();
        if (mine < t->caption_count)
            e = text_jacobian_add(&t->jacobian, set->ids + t->captions[mine] * set->length, embedding, k, products,
                                  t->pool);
        comm_tick(t->parts.comm);
        TRY(comm_meet(t->parts.comm, e, &stop));
        if (stop)
            return error_preempted("stopped by a signal while finding directions; run again with --resume to continue");
        progress_step(progress, done + k + 1, "");
    }
    return ok();
}

/* Rank 0's `all` [dim, dim] += the captions', in their order. mine, other: room for one's. */
static struct error add_captions(struct text_basis *t, const float *embedding, double *all, double *mine, double *other,
                                 struct progress *progress)
{
    struct comm *comm = t->parts.comm;
    int64_t ranks = comm_size(comm), rank = comm_rank(comm), count = t->jacobian.dim * t->jacobian.dim;
    for (int64_t first = 0; first < t->caption_count; first += ranks) {
        memset(mine, 0, (size_t)count * sizeof *mine);
        TRY(add_caption(t, embedding, first + rank, mine, progress, first / ranks * t->jacobian.batches));
        for (int64_t r = 0; r < ranks && first + r < t->caption_count; r++) {
            double *sent = r == rank ? mine : other;
            TRY(comm_broadcast(comm, sent, count * (int64_t)sizeof *sent, (int)r));
            for (int64_t i = 0; i < count && rank == 0; i++)
                all[i] += sent[i];
        }
    }
    return ok();
}

struct error text_basis_spectrum(struct text_basis *t, const float *embedding, double *values, double *vectors)
{
    struct comm *comm = t->parts.comm;
    int64_t dim = t->jacobian.dim, rounds = (t->caption_count + comm_size(comm) - 1) / comm_size(comm);
    double *room = memory_alloc(3, dim * dim * (int64_t)sizeof *room);
    struct progress progress;
    struct error e = comm_agree(comm, room ? ok() : error_memory("the text encoder's derivatives"));
    progress_phase(&progress, "finding directions", rounds * t->jacobian.batches, "");
    if (e.code == ERROR_NONE)
        e = add_captions(t, embedding, room, room + dim * dim, room + 2 * dim * dim, &progress);
    if (e.code == ERROR_NONE)
        e = comm_agree(comm, comm_rank(comm) == 0 ? symmetric_eigen(room, dim, values, vectors) : ok());
    progress_end(&progress);
    memory_free(room);
    for (int64_t i = 0; i < dim && comm_rank(comm) == 0; i++)
        values[i] /= (double)t->caption_count;
    return e;
}

/* -------------------------------------------------------------------------------- text's basis */

static double sum(const double *values, int64_t count)
{
    double all = 0;
    for (int64_t i = 0; i < count; i++)
        all += values[i];
    return all;
}

/* Rank 0. */
static struct error take_top(struct basis *b, const double *values, const double *vectors, int64_t least, int64_t rank)
{
    int64_t dim = b->dim;
    double trace = sum(values, dim);
    if (rank == 0)
        for (rank = least; rank < dim && sum(values, rank) < HELD * trace;)
            rank++;
    TRY(new_rows(b, rank, dim));
    for (int64_t i = 0; i < rank * dim; i++)
        b->rows[i] = (float)vectors[i];
    b->held = trace > 0 ? sum(values, rank) / trace : 1;
    return ok();
}

static struct error find(struct text_basis *t, const float *embedding, int64_t least, int64_t rank, struct basis *b)
{
    struct comm *comm = t->parts.comm;
    bool first = comm_rank(comm) == 0;
    int64_t dim = b->dim;
    double *values = memory_alloc(first ? (dim + 1) * dim : 0, sizeof *values), *vectors = first ? values + dim : NULL;
    struct error e = comm_agree(comm, values ? ok() : error_memory("directions"));
    if (e.code == ERROR_NONE)
        e = text_basis_spectrum(t, embedding, values, vectors);
    if (e.code == ERROR_NONE)
        e = comm_agree(comm, first ? take_top(b, values, vectors, least, rank) : ok());
    memory_free(values);
    return e.code == ERROR_NONE ? share(b, comm) : e;
}

struct error text_basis_find(struct text_basis *t, const float *embedding, int64_t least, int64_t rank, struct basis *b)
{
    double began = clock_seconds();
    b->dim = t->jacobian.dim;
    if (!device_computes(t->parts.device))
        return new_rows(b, rank ? rank : least, b->dim);
    TRY(find(t, embedding, least, rank, b));
    if (comm_rank(t->parts.comm) == 0)
        log_line("directions: %lld of %lld hold %.2f %% of what the word changes in the UNet's keys and values "
                 "(captions: %lld, %.1f s)",
                 (long long)b->rank, (long long)b->dim, 100 * b->held, (long long)t->caption_count,
                 clock_seconds() - began);
    return ok();
}

/* -------------------------------------------------------------------------------- making, freeing */

struct error text_basis_new(struct text_basis *t, const struct training_parts *parts, int64_t arena)
{
    *t = (struct text_basis){.parts = *parts};
    choose_captions(t);
    const struct text_jacobian_shape shape = {parts->dataset->length, parts->config->token.vectors, parts->first_id};
    struct error e = open_pool(&t->pool, parts->comm);
    if (e.code == ERROR_NONE)
        e = text_jacobian_new(&t->jacobian, parts->device, parts->text, parts->unet, &shape, arena, t->pool);
    if (e.code != ERROR_NONE)
        text_basis_free(t);
    return e;
}

void text_basis_free(struct text_basis *t)
{
    text_jacobian_free(&t->jacobian);
    if (t->pool)
        pool_close(t->pool);
    *t = (struct text_basis){0};
}
