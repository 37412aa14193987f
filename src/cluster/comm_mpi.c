/* The MPI transport; an empty file without MPI. */
#include "cluster/transport.h"

#ifdef ZOODIP_MPI

#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

struct mpi {
    MPI_Comm all, local;
    MPI_Comm signs; /* all again, for signs of life, which must not mix with anything else */
    int rank, size;
    const struct comm_settings *settings;
    bool *alive;               /* [size]: has given a sign of life */
    int *world_rank;           /* [size]: rank in MPI_COMM_WORLD */
    struct mpi *parent;        /* that this was split from; NULL for the world, which alone ends MPI */
    struct outgoing *outgoing; /* messages under way */
};

/* MPI_Send may wait for a receiver that hangs, so a message is kept here until MPI has sent it. */
struct outgoing {
    MPI_Request request;
    void *data;
    struct outgoing *next;
};

enum { MESSAGE = 1, SIGN_OF_LIFE }; /* tags */

static struct error check(int result, const char *call)
{
    if (result == MPI_SUCCESS)
        return ok();
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(result, text, &length);
    return error_failed("%s: %s", call, text);
}

/* -------------------------------------------------------------------------------- waiting with a limit */

/* MPI's own waits never end when a rank hangs, so every collective is nonblocking and is polled until it completes. A
 * rank that has waited too long calls the roll: it sends a sign of life to all, and other waiting ranks answer with
 * theirs. A rank that has sent none after a short grace period hangs, and the lowest rank that is alive reports it. */

/* All in seconds. */
static const double SPIN = 1e-3;         /* for which a wait only yields: a step mostly ends within microseconds */
static const double SHORT_PAUSE = 50e-6; /* between polls after that, so that other processes can use the core */
static const double LONG_PAUSE = 2e-3;   /* the same for waits that may be long */
static const double TICK = 0.1;          /* of waiting between two ticks of the listener */
static const double MAX_GAP = 1;         /* that counts between polls: after a longer one this rank was stopped */
static const double GRACE = 2;           /* for the signs of life to arrive */
static const double MAX_GRACE_GAP = 0.1; /* that counts of the grace: a stalled machine stalls all ranks */
static const double END_WAIT = 5;        /* for which the other ranks wait for the reporting one to end them */

/* Receives one sign of life, if there is one. */
static bool receive_sign(struct mpi *m)
{
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, SIGN_OF_LIFE, m->signs, &there, &status) != MPI_SUCCESS || !there)
        return false;
    MPI_Recv(NULL, 0, MPI_BYTE, status.MPI_SOURCE, SIGN_OF_LIFE, m->signs, MPI_STATUS_IGNORE);
    m->alive[status.MPI_SOURCE] = true;
    return true;
}

/* To all ranks, once. */
static void send_signs(struct mpi *m)
{
    for (int rank = 0; rank < m->size && !m->alive[m->rank]; rank++) {
        MPI_Request sent;
        if (rank != m->rank && MPI_Isend(NULL, 0, MPI_BYTE, rank, SIGN_OF_LIFE, m->signs, &sent) == MPI_SUCCESS)
            MPI_Request_free(&sent); // a rank that hangs may never receive it
    }
    m->alive[m->rank] = true;
}

/* Waits for signs of life. A group's roll call may coincide with its parent's, which must not miss this rank. */
static void collect_signs(struct mpi *m)
{
    send_signs(m);
    for (double waited = 0, before = clock_seconds(); waited < GRACE;) {
        if (m->parent && receive_sign(m->parent))
            send_signs(m->parent);
        if (!receive_sign(m))
            clock_sleep(SHORT_PAUSE);
        double now = clock_seconds();
        waited += now - before < MAX_GRACE_GAP ? now - before : MAX_GRACE_GAP;
        before = now;
    }
}

/* "rank 3" or "ranks 3, 5", those that gave no sign of life; "" if all did. */
static void name_missing(const struct mpi *m, char text[256])
{
    int used = 0, count = 0;
    text[0] = 0;
    for (int rank = 0; rank < m->size; rank++)
        count += !m->alive[rank];
    for (int rank = 0; rank < m->size && used < 240; rank++)
        if (!m->alive[rank])
            used += snprintf(text + used, (size_t)(256 - used), "%s%d",
                             used        ? ", "
                             : count > 1 ? "ranks "
                                         : "rank ",
                             m->world_rank[rank]);
}

static struct error missing_error(const struct mpi *m)
{
    char missing[256];
    name_missing(m, missing);
    long long step = (long long)m->settings->step;
    double limit = m->settings->timeout;
    if (!missing[0])
        return error_failed("after step %lld some ranks were more than %g s late (cluster.timeout)", step, limit);
    return error_failed("%s gave no sign of life for %g s (cluster.timeout) after step %lld: hung, or slower than that",
                        missing, limit, step);
}

/* After a roll call: is this the lowest rank that is alive? */
static bool is_first_alive(const struct mpi *m)
{
    int first = 0;
    while (!m->alive[first])
        first++;
    return m->rank == first;
}

static struct error mpi_roll_call(void *state)
{
    struct mpi *m = state;
    collect_signs(m);
    // the first rank alive ends all; in a loop, since the launcher's first signal ends a sleep early
    for (double end = clock_seconds() + END_WAIT; !is_first_alive(m) && clock_seconds() < end;)
        clock_sleep(end - clock_seconds());
    return missing_error(m);
}

static bool mpi_poll_roll_call(void *state)
{
    return receive_sign(state);
}

/* Ends all ranks; returns only if the launcher is slow. */
static struct error end_all(struct mpi *m)
{
    struct error e = mpi_roll_call(m);
    const struct comm_listener *l = &m->settings->listener;
    if (is_first_alive(m)) {
        log_error("rank %d: %s", m->world_rank[m->rank], e.text);
        comm_tell_abort(l, e.text);
    }
    MPI_Abort(MPI_COMM_WORLD, ERROR_FAILED);
    return e;
}

/* limit: in seconds, 0 for none. */
static struct error wait_limited(struct mpi *m, MPI_Request *request, double limit, double pause, const char *call)
{
    const struct comm_listener *l = &m->settings->listener;
    double waited = 0, ticked = 0, before = clock_seconds();
    for (;;) {
        int done = 0;
        TRY(check(MPI_Test(request, &done, MPI_STATUS_IGNORE), call));
        if (done)
            return ok();
        double now = clock_seconds(), gap = now - before;
        waited += gap < MAX_GAP ? gap : MAX_GAP;
        before = now;
        if (waited < SPIN)
            sched_yield();
        else if ((limit > 0 && waited >= limit) || receive_sign(m))
            return end_all(m);
        else
            clock_sleep(pause);
        if (l->tick && waited - ticked >= TICK) {
            ticked = waited;
            l->tick(l->arg);
        }
    }
}

static struct error wait_for(struct mpi *m, MPI_Request *request, const char *call)
{
    return wait_limited(m, request, m->settings->timeout, SHORT_PAUSE, call);
}

/* -------------------------------------------------------------------------------- verbs */

static struct error mpi_sum(void *state, double *values, int count)
{
    struct mpi *m = state;
    MPI_Request request;
    TRY(check(MPI_Iallreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, m->all, &request), "MPI_Iallreduce"));
    return wait_for(m, &request, "MPI_Iallreduce");
}

static struct error broadcast_among(struct mpi *m, MPI_Comm ranks, void *data, int bytes, int root)
{
    MPI_Request request;
    TRY(check(MPI_Ibcast(data, bytes, MPI_BYTE, root, ranks, &request), "MPI_Ibcast"));
    return wait_for(m, &request, "MPI_Ibcast");
}

static struct error mpi_broadcast(void *state, void *data, int bytes, int root)
{
    struct mpi *m = state;
    return broadcast_among(m, m->all, data, bytes, root);
}

static struct error mpi_broadcast_local(void *state, void *data, int bytes)
{
    struct mpi *m = state;
    return broadcast_among(m, m->local, data, bytes, 0);
}

static struct error barrier_among(struct mpi *m, MPI_Comm ranks)
{
    MPI_Request request;
    TRY(check(MPI_Ibarrier(ranks, &request), "MPI_Ibarrier"));
    return wait_for(m, &request, "MPI_Ibarrier");
}

static struct error mpi_barrier(void *state)
{
    struct mpi *m = state;
    return barrier_among(m, m->all);
}

static struct error mpi_barrier_local(void *state)
{
    struct mpi *m = state;
    return barrier_among(m, m->local);
}

/* Frees the messages that have been sent. */
static struct error free_sent(struct mpi *m)
{
    for (struct outgoing **at = &m->outgoing; *at;) {
        struct outgoing *one = *at;
        int sent = 0;
        TRY(check(MPI_Test(&one->request, &sent, MPI_STATUS_IGNORE), "MPI_Isend"));
        if (sent) {
            *at = one->next;
            memory_free(one->data);
            memory_free(one);
        } else {
            at = &one->next;
        }
    }
    return ok();
}

/* MPI_Finalize waits for all ranks without a limit, hence the barrier before it, after which messages under way will
 * arrive. */
static void mpi_close(void *state)
{
    struct mpi *m = state;
    mpi_barrier(m);
    while (m->outgoing && free_sent(m).code == ERROR_NONE)
        sched_yield();
    bool part = m->parent != NULL;
    MPI_Comm_free(&m->local);
    MPI_Comm_free(&m->signs);
    if (part)
        MPI_Comm_free(&m->all);
    memory_free(m->alive);
    memory_free(m->world_rank);
    memory_free(m);
    if (!part)
        MPI_Finalize();
}

static void mpi_abort(void *state, int code)
{
    const struct mpi *m = state;
    MPI_Abort(m->all, code);
}

/* Everything but m->all, which is set. */
static struct error set_up(struct mpi *m, struct comm_place *place)
{
    TRY(check(MPI_Comm_set_errhandler(m->all, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    TRY(check(MPI_Comm_rank(m->all, &place->rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_size(m->all, &place->size), "MPI_Comm_size"));
    int kind = MPI_COMM_TYPE_SHARED;
    TRY(check(MPI_Comm_split_type(m->all, kind, place->rank, MPI_INFO_NULL, &m->local), "MPI_Comm_split_type"));
    TRY(check(MPI_Comm_set_errhandler(m->local, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    TRY(check(MPI_Comm_rank(m->local, &place->local_rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_size(m->local, &place->local_size), "MPI_Comm_size"));
    TRY(check(MPI_Comm_dup(m->all, &m->signs), "MPI_Comm_dup"));
    m->rank = place->rank;
    m->size = place->size;
    m->alive = memory_alloc(m->size, sizeof *m->alive);
    m->world_rank = memory_alloc(m->size, sizeof *m->world_rank);
    if (!m->alive || !m->world_rank)
        return error_memory("the communicator");
    int mine;
    TRY(check(MPI_Comm_rank(MPI_COMM_WORLD, &mine), "MPI_Comm_rank"));
    return check(MPI_Allgather(&mine, 1, MPI_INT, m->world_rank, 1, MPI_INT, m->all), "MPI_Allgather");
}

static struct error mpi_split(void *state, int group, const struct comm_settings *settings, void **part,
                              struct comm_place *place)
{
    struct mpi *m = state;
    MPI_Comm all;
    int rank;
    TRY(check(MPI_Comm_rank(m->all, &rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_split(m->all, group, rank, &all), "MPI_Comm_split"));
    struct mpi *p = memory_alloc(1, sizeof *p);
    if (!p)
        MPI_Abort(m->all, ERROR_FAILED); // the others of the group are on their way into its first collective
    *p = (struct mpi){.all = all, .parent = m, .settings = settings};
    *part = p;
    return set_up(p, place);
}

static struct error mpi_send(void *state, const void *data, int bytes, int to)
{
    struct mpi *m = state;
    struct outgoing *one = memory_alloc(1, sizeof *one);
    void *copy = memory_alloc(bytes, 1);
    if (!one || !copy) {
        memory_free(one);
        memory_free(copy);
        return error_memory("a message");
    }
    memcpy(copy, data, (size_t)bytes);
    *one = (struct outgoing){MPI_REQUEST_NULL, copy, m->outgoing};
    m->outgoing = one;
    return check(MPI_Isend(copy, bytes, MPI_BYTE, to, MESSAGE, m->all, &one->request), "MPI_Isend");
}

static struct error mpi_poll(void *state, int *from)
{
    struct mpi *m = state;
    int there;
    MPI_Status status;
    TRY(free_sent(m));
    TRY(check(MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE, m->all, &there, &status), "MPI_Iprobe"));
    *from = there ? status.MPI_SOURCE : -1;
    return ok();
}

static struct error mpi_receive(void *state, void *data, int bytes, int from)
{
    const struct mpi *m = state;
    return check(MPI_Recv(data, bytes, MPI_BYTE, from, MESSAGE, m->all, MPI_STATUS_IGNORE), "MPI_Recv");
}

static struct error mpi_wait_all(void *state, int times)
{
    struct mpi *m = state;
    MPI_Request request;
    TRY(check(MPI_Ibarrier(m->all, &request), "MPI_Ibarrier"));
    return wait_limited(m, &request, times * m->settings->timeout, LONG_PAUSE, "MPI_Ibarrier");
}

enum { START_LIMIT = 600 }; /* seconds */

static void abort_start(int number)
{
    (void)number;
    static const char text[] = "zoodip: MPI did not start within 600 s: a rank hangs, or its node cannot be reached\n";
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written; // it ends either way
    _exit(ERROR_FAILED);
}

struct error mpi_open(const struct transport **transport, void **state, struct comm_place *place,
                      const struct comm_settings *settings, int *argc, char ***argv)
{
    static const struct transport calls = {
        .close = mpi_close,
        .sum = mpi_sum,
        .broadcast = mpi_broadcast,
        .broadcast_local = mpi_broadcast_local,
        .barrier = mpi_barrier,
        .barrier_local = mpi_barrier_local,
        .abort = mpi_abort,
        .poll_roll_call = mpi_poll_roll_call,
        .roll_call = mpi_roll_call,
        .split = mpi_split,
        .send = mpi_send,
        .poll = mpi_poll,
        .receive = mpi_receive,
        .wait_all = mpi_wait_all,
    };
    // Open MPI: a waiting rank yields its core to working ones; mpirun's own choice, or the user's, takes precedence
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    // MPI's own start waits forever, and ranks cannot ask one another for a sign of life before it ends
    signal(SIGALRM, abort_start);
    alarm(START_LIMIT);
    int provided;
    TRY(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
    struct mpi *m = memory_alloc(1, sizeof *m);
    if (m)
        m->all = MPI_COMM_WORLD;
    struct error e = m ? set_up(m, place) : error_memory("the communicator");
    if (e.code != ERROR_NONE) {
        memory_free(m);
        MPI_Abort(MPI_COMM_WORLD, e.code);
        return e;
    }
    alarm(0);
    m->settings = settings;
    *transport = &calls;
    *state = m;
    return ok();
}

#define TEXT_OF(number)                     #number
#define VERSION_TEXT(major, minor, release) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(release)

const char *mpi_library(void)
{
#if defined(OMPI_MAJOR_VERSION)
    return "Open MPI " VERSION_TEXT(OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#elif defined(MPICH_VERSION)
    return "MPICH " MPICH_VERSION;
#else
    return "MPI standard " VERSION_TEXT(MPI_VERSION, MPI_SUBVERSION, 0);
#endif
}

#endif
