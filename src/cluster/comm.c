#include "cluster/comm.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "cluster/transport.h"

enum { BYTES_AT_ONCE = 1 << 30, NUMBERS_AT_ONCE = 1 << 26, LISTENER_SECONDS = 5 };

struct comm {
    const struct transport *transport; /* NULL: alone */
    void *state;
    struct comm_place place;
    struct comm_settings settings;
    double *failures; /* [size], for comm_agree, which must not run out of memory */
};

/* -------------------------------------------------------------------------------- open, close */

static int64_t number_from_environment(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? strtoll(text, NULL, 10) : 0;
}

/* The variable in which a process manager gave this process its rank: Open MPI's, PMIx's, or PMI's (MPICH, Intel MPI,
 * srun --mpi=pmi2); NULL if none did. */
static const char *rank_variable(void)
{
    static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        if (getenv(ranks[i]))
            return ranks[i];
    return NULL;
}

int comm_rank_launched(void)
{
    const char *variable = rank_variable();
    return (int)number_from_environment(variable ? variable : "SLURM_PROCID");
}

/* Processes that run side by side without knowing it would all write the same files. */
static struct error check_launcher(void)
{
#ifdef ZOODIP_MPI
    if (!rank_variable() && number_from_environment("SLURM_STEP_NUM_TASKS") > 1)
        return error_input("srun started %lld tasks that do not see one another; expected srun --mpi=pmix (or pmi2)",
                           (long long)number_from_environment("SLURM_STEP_NUM_TASKS"));
#else
    const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (number_from_environment(sizes[i]) > 1)
            return error_input("started as %lld ranks, but this zoodip was built without MPI",
                               (long long)number_from_environment(sizes[i]));
#endif
    return ok();
}

static struct error alloc_failures(struct comm *c)
{
    c->failures = memory_alloc(c->place.size, sizeof *c->failures);
    return c->failures ? ok() : error_memory("the communicator");
}

static struct error connect_ranks(struct comm *c, int *argc, char ***argv)
{
    c->place = (struct comm_place){0, 1, 0, 1};
    c->settings.timeout = 600;
#ifdef ZOODIP_MPI
    if (rank_variable())
        TRY(mpi_open(&c->transport, &c->state, &c->place, &c->settings, argc, argv));
#else
    (void)argc;
    (void)argv;
#endif
    return alloc_failures(c);
}

struct error comm_open(struct comm **comm, int *argc, char ***argv)
{
    *comm = NULL;
    TRY(check_launcher());
    struct comm *c = memory_alloc(1, sizeof *c);
    if (!c)
        return error_memory("the communicator");
    struct error e = connect_ranks(c, argc, argv);
    if (e.code != ERROR_NONE) {
        comm_close(c);
        return e;
    }
    progress_set_muted(c->place.rank != 0);
    *comm = c;
    return ok();
}

void comm_close(struct comm *comm)
{
    if (!comm)
        return;
    if (comm->transport)
        comm->transport->close(comm->state);
    memory_free(comm->failures);
    memory_free(comm);
}

const char *comm_library(void)
{
#ifdef ZOODIP_MPI
    return mpi_library();
#else
    return "not built in";
#endif
}

/* -------------------------------------------------------------------------------- who and where */

int comm_rank(const struct comm *comm)
{
    return comm->place.rank;
}

int comm_size(const struct comm *comm)
{
    return comm->place.size;
}

int comm_local_rank(const struct comm *comm)
{
    return comm->place.local_rank;
}

int comm_local_size(const struct comm *comm)
{
    return comm->place.local_size;
}

void comm_set_timeout(struct comm *comm, double seconds)
{
    comm->settings.timeout = seconds;
}

void comm_set_step(struct comm *comm, int64_t step)
{
    comm->settings.step = step;
}

void comm_listen(struct comm *comm, struct comm_listener listener)
{
    comm->settings.listener = listener;
}

void comm_tick(const struct comm *comm)
{
    const struct comm_listener *l = &comm->settings.listener;
    if (l->tick)
        l->tick(l->arg);
}

/* -------------------------------------------------------------------------------- verbs */

struct error comm_sum(struct comm *comm, double *values, int64_t count)
{
    if (!comm->transport)
        return ok();
    for (int64_t i = 0; i < count; i += NUMBERS_AT_ONCE) {
        int64_t part = count - i < NUMBERS_AT_ONCE ? count - i : NUMBERS_AT_ONCE;
        TRY(comm->transport->sum(comm->state, values + i, (int)part));
    }
    return ok();
}

struct error comm_broadcast(struct comm *comm, void *data, int64_t bytes, int root)
{
    if (!comm->transport)
        return ok();
    for (int64_t i = 0; i < bytes; i += BYTES_AT_ONCE) {
        int64_t part = bytes - i < BYTES_AT_ONCE ? bytes - i : BYTES_AT_ONCE;
        TRY(comm->transport->broadcast(comm->state, (char *)data + i, (int)part, root));
    }
    return ok();
}

struct error comm_barrier(struct comm *comm)
{
    return comm->transport ? comm->transport->barrier(comm->state) : ok();
}

struct error comm_broadcast_local(struct comm *comm, void *data, int bytes)
{
    return comm->transport ? comm->transport->broadcast_local(comm->state, data, bytes) : ok();
}

struct error comm_barrier_local(struct comm *comm)
{
    return comm->transport ? comm->transport->barrier_local(comm->state) : ok();
}

struct error comm_agree(struct comm *comm, struct error e)
{
    if (!comm->transport)
        return e;
    int size = comm->place.size;
    memset(comm->failures, 0, (size_t)size * sizeof *comm->failures);
    comm->failures[comm->place.rank] = e.code != ERROR_NONE;
    TRY(comm_sum(comm, comm->failures, size));
    for (int rank = 0; rank < size; rank++) {
        if (comm->failures[rank] == 0)
            continue;
        TRY(comm_broadcast(comm, &e, sizeof e, rank));
        return e;
    }
    return ok();
}

struct error comm_meet(struct comm *comm, struct error mine, bool *stop)
{
    enum { STOP, FAILED, SLOTS };
    double slots[SLOTS] = {[STOP] = *stop, [FAILED] = mine.code != ERROR_NONE};
    TRY(comm_sum(comm, slots, SLOTS));
    *stop = slots[STOP] > 0;
    return slots[FAILED] > 0 ? comm_agree(comm, mine) : ok();
}

void comm_tell_abort(const struct comm_listener *listener, const char *text)
{
    if (!listener->abort)
        return;
    signal(SIGALRM, SIG_DFL);
    alarm(LISTENER_SECONDS);
    listener->abort(listener->arg, text);
    alarm(0);
}

struct error comm_abort(struct comm *comm, struct error e)
{
    if (e.code == ERROR_NONE || comm->place.size == 1)
        return e;
    log_error("rank %d: %s", comm->place.rank, e.text);
    comm_tell_abort(&comm->settings.listener, e.text);
    comm->transport->abort(comm->state, e.code);
    return e;
}

bool comm_poll_roll_call(struct comm *comm)
{
    return comm->transport && comm->transport->poll_roll_call(comm->state);
}

struct error comm_roll_call(struct comm *comm)
{
    return comm->transport ? comm->transport->roll_call(comm->state) : ok();
}

struct error comm_share_text(struct comm *comm, char **text, int64_t *size)
{
    TRY(comm_broadcast(comm, size, sizeof *size, 0));
    if (comm->place.rank != 0)
        *text = memory_alloc(*size + 1, 1);
    TRY(comm_agree(comm, *text ? ok() : error_memory("a text of rank 0's")));
    return comm_broadcast(comm, *text, *size, 0);
}

/* -------------------------------------------------------------------------------- groups */

/* Returns this rank's outcome, on which the others still have to agree. */
static struct error open_part(struct comm *comm, struct comm *part, int group)
{
    part->transport = comm->transport;
    part->settings = comm->settings;
    struct error e = comm->transport->split(comm->state, group, &part->settings, &part->state, &part->place);
    if (e.code != ERROR_NONE)
        part->transport = NULL;
    return e.code == ERROR_NONE ? alloc_failures(part) : e;
}

struct error comm_split(struct comm *comm, int group, struct comm **part)
{
    *part = NULL;
    struct comm *c = memory_alloc(1, sizeof *c);
    TRY(comm_agree(comm, c ? ok() : error_memory("a group's communicator")));
    struct error e;
    if (comm->transport) {
        e = comm_agree(comm, open_part(comm, c, group));
    } else {
        c->place = comm->place;
        e = alloc_failures(c);
    }
    if (e.code != ERROR_NONE) {
        comm_close(c);
        return e;
    }
    *part = c;
    return ok();
}

struct error comm_send(struct comm *comm, const void *data, int64_t bytes, int to)
{
    return comm->transport->send(comm->state, data, (int)bytes, to);
}

struct error comm_poll(struct comm *comm, int *from)
{
    *from = -1;
    return comm->transport ? comm->transport->poll(comm->state, from) : ok();
}

struct error comm_receive(struct comm *comm, void *data, int64_t bytes, int from)
{
    return comm->transport->receive(comm->state, data, (int)bytes, from);
}

struct error comm_wait_all(struct comm *comm, int times)
{
    return comm->transport ? comm->transport->wait_all(comm->state, times) : ok();
}
