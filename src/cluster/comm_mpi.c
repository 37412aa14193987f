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

#include "base/log.h"
#include "base/memory.h"
#include "base/clock.h"

struct mpi {
    MPI_Comm all, here;
    MPI_Comm signs; /* all again, for signs of life, which must not mix with anything else */
    int rank, size;
    const struct patience *patience;
    bool *seen;                /* [size]: who has given a sign of life */
    int *whole;                /* [size]: their ranks in the whole */
    struct mpi *of;            /* the whole that this is a part of; NULL for the whole, which alone ends MPI */
    struct outgoing *outgoing; /* messages that are under way */
};

/* MPI_Send may wait for a receiver that hangs, so a message stays here until it has gone. */
struct outgoing {
    MPI_Request request;
    void *data;
    struct outgoing *next;
};

enum { MESSAGE = 1, SIGN_OF_LIFE }; /* the tags of comm_send's messages, and of a rank that waits */

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
 * rank that runs out of patience sends a sign of life to all; other waiting ranks answer with theirs. A rank that has
 * sent none after a short grace period hangs, and the lowest rank that is alive says so. */

static const double EAGER = 1e-3;     /* seconds in which a wait only yields: a step mostly ends within microseconds */
static const double NAP = 50e-6;      /* seconds between polls after that, so that others can use the core */
static const double SLEEP = 2e-3;     /* the same for waits that may be long */
static const double TELL = 0.1;       /* seconds of waiting between two calls of the listener */
static const double GRACE = 2;        /* seconds for the signs of life to arrive */
static const double GRACE_BEAT = 0.1; /* the most of it that one poll counts: a stalled machine stalls all ranks */
static const double SILENCE = 5;      /* seconds that a rank which is not the one to speak waits to be ended */
static const double LONGEST_BEAT = 1; /* seconds; if two polls are further apart, this rank was stopped */

/* Receives one sign of life, if there is one. */
static bool hear(struct mpi *m)
{
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, SIGN_OF_LIFE, m->signs, &there, &status) != MPI_SUCCESS || !there)
        return false;
    MPI_Recv(NULL, 0, MPI_BYTE, status.MPI_SOURCE, SIGN_OF_LIFE, m->signs, MPI_STATUS_IGNORE);
    m->seen[status.MPI_SOURCE] = true;
    return true;
}

/* To all, once. */
static void give_sign(struct mpi *m)
{
    for (int rank = 0; rank < m->size && !m->seen[m->rank]; rank++) {
        MPI_Request sent;
        if (rank != m->rank && MPI_Isend(NULL, 0, MPI_BYTE, rank, SIGN_OF_LIFE, m->signs, &sent) == MPI_SUCCESS)
            MPI_Request_free(&sent); // a rank that hangs may never receive it
    }
    m->seen[m->rank] = true;
}

/* A group's roll call may coincide with one of all ranks, which must not miss this rank. */
static void call_roll(struct mpi *m)
{
    give_sign(m);
    for (double waited = 0, before = clock_seconds(); waited < GRACE;) {
        if (m->of && hear(m->of))
            give_sign(m->of);
        if (!hear(m))
            clock_sleep(NAP);
        double now = clock_seconds();
        waited += now - before < GRACE_BEAT ? now - before : GRACE_BEAT;
        before = now;
    }
}

/* "rank 3" or "ranks 3, 5", those that gave no sign of life; "" if all did. */
static void name_missing(const struct mpi *m, char text[256])
{
    int used = 0, count = 0;
    text[0] = 0;
    for (int rank = 0; rank < m->size; rank++)
        count += !m->seen[rank];
    for (int rank = 0; rank < m->size && used < 240; rank++)
        if (!m->seen[rank])
            used += snprintf(text + used, (size_t)(256 - used), "%s%d",
                             used        ? ", "
                             : count > 1 ? "ranks "
                                         : "rank ",
                             m->whole[rank]);
}

static struct error lost(const struct mpi *m)
{
    char missing[256];
    name_missing(m, missing);
    long long step = (long long)m->patience->step;
    double limit = m->patience->seconds;
    if (!missing[0])
        return error_failed("after step %lld some ranks were more than %g s late (cluster.timeout)", step, limit);
    return error_failed("%s gave no sign of life for %g s (cluster.timeout) after step %lld: hung, or slower than that",
                        missing, limit, step);
}

/* After a roll call: is this the lowest rank that is alive? */
static bool speaks(const struct mpi *m)
{
    int first = 0;
    while (!m->seen[first])
        first++;
    return m->rank == first;
}

static struct error mpi_roll(void *state)
{
    struct mpi *m = state;
    call_roll(m);
    // the rank that speaks ends all; the launcher's first signal would cut a plain sleep short
    for (double end = clock_seconds() + SILENCE; !speaks(m) && clock_seconds() < end;)
        clock_sleep(end - clock_seconds());
    return lost(m);
}

static bool mpi_called(void *state)
{
    return hear(state);
}

/* Ends all ranks; returns only if the launcher is slow. */
static struct error give_up(struct mpi *m)
{
    struct error e = mpi_roll(m);
    const struct listener *l = &m->patience->listener;
    if (speaks(m)) {
        log_error("rank %d: %s", m->whole[m->rank], e.text);
        if (l->alarm)
            l->alarm(l->arg, e.text);
    }
    MPI_Abort(MPI_COMM_WORLD, ERROR_FAILED);
    return e;
}

/* limit: in seconds, 0 for none. */
static struct error wait_until(struct mpi *m, MPI_Request *request, double limit, double pause, const char *call)
{
    const struct listener *l = &m->patience->listener;
    double waited = 0, told = 0, before = clock_seconds();
    for (;;) {
        int done = 0;
        TRY(check(MPI_Test(request, &done, MPI_STATUS_IGNORE), call));
        if (done)
            return ok();
        double now = clock_seconds(), beat = now - before;
        waited += beat < LONGEST_BEAT ? beat : LONGEST_BEAT;
        before = now;
        if (waited < EAGER)
            sched_yield();
        else if ((limit > 0 && waited >= limit) || hear(m))
            return give_up(m);
        else
            clock_sleep(pause);
        if (l->meanwhile && waited - told >= TELL) {
            told = waited;
            l->meanwhile(l->arg);
        }
    }
}

static struct error wait_for(struct mpi *m, MPI_Request *request, const char *call)
{
    return wait_until(m, request, m->patience->seconds, NAP, call);
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
    return broadcast_among(m, m->here, data, bytes, 0);
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
    return barrier_among(m, m->here);
}

/* Forgets the messages that have been sent. */
static struct error look_after(struct mpi *m)
{
    for (struct outgoing **at = &m->outgoing; *at;) {
        struct outgoing *one = *at;
        int gone = 0;
        TRY(check(MPI_Test(&one->request, &gone, MPI_STATUS_IGNORE), "MPI_Isend"));
        if (gone) {
            *at = one->next;
            memory_free(one->data);
            memory_free(one);
        } else {
            at = &one->next;
        }
    }
    return ok();
}

/* MPI_Finalize waits for all ranks without a limit, hence the barrier before it. After the barrier all ranks are here,
 * so messages under way will arrive. */
static void mpi_close(void *state)
{
    struct mpi *m = state;
    mpi_barrier(m);
    while (m->outgoing && look_after(m).code == ERROR_NONE)
        sched_yield();
    bool part = m->of != NULL;
    MPI_Comm_free(&m->here);
    MPI_Comm_free(&m->signs);
    if (part)
        MPI_Comm_free(&m->all);
    memory_free(m->seen);
    memory_free(m->whole);
    memory_free(m);
    if (!part)
        MPI_Finalize();
}

static void mpi_abort(void *state, int code)
{
    const struct mpi *m = state;
    MPI_Abort(m->all, code);
}

/* Of m->all, which is set. */
static struct error find_place(struct mpi *m, struct place *place)
{
    TRY(check(MPI_Comm_set_errhandler(m->all, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    TRY(check(MPI_Comm_rank(m->all, &place->rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_size(m->all, &place->size), "MPI_Comm_size"));
    int kind = MPI_COMM_TYPE_SHARED;
    TRY(check(MPI_Comm_split_type(m->all, kind, place->rank, MPI_INFO_NULL, &m->here), "MPI_Comm_split_type"));
    TRY(check(MPI_Comm_set_errhandler(m->here, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    TRY(check(MPI_Comm_rank(m->here, &place->local_rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_size(m->here, &place->local_size), "MPI_Comm_size"));
    TRY(check(MPI_Comm_dup(m->all, &m->signs), "MPI_Comm_dup"));
    m->rank = place->rank;
    m->size = place->size;
    m->seen = memory_alloc(m->size, sizeof *m->seen);
    m->whole = memory_alloc(m->size, sizeof *m->whole);
    if (!m->seen || !m->whole)
        return error_memory("the communicator");
    int mine;
    TRY(check(MPI_Comm_rank(MPI_COMM_WORLD, &mine), "MPI_Comm_rank"));
    return check(MPI_Allgather(&mine, 1, MPI_INT, m->whole, 1, MPI_INT, m->all), "MPI_Allgather");
}

static struct error mpi_split(void *state, int group, const struct patience *patience, void **part, struct place *place)
{
    struct mpi *m = state;
    MPI_Comm all;
    int rank;
    TRY(check(MPI_Comm_rank(m->all, &rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_split(m->all, group, rank, &all), "MPI_Comm_split"));
    struct mpi *p = memory_alloc(1, sizeof *p);
    if (!p)
        MPI_Abort(m->all, ERROR_FAILED); // the others of the group are on their way into its first collective
    *p = (struct mpi){.all = all, .of = m, .patience = patience};
    *part = p;
    return find_place(p, place);
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
    TRY(look_after(m));
    TRY(check(MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE, m->all, &there, &status), "MPI_Iprobe"));
    *from = there ? status.MPI_SOURCE : -1;
    return ok();
}

static struct error mpi_receive(void *state, void *data, int bytes, int from)
{
    const struct mpi *m = state;
    return check(MPI_Recv(data, bytes, MPI_BYTE, from, MESSAGE, m->all, MPI_STATUS_IGNORE), "MPI_Recv");
}

static struct error mpi_gather(void *state, int times)
{
    struct mpi *m = state;
    MPI_Request request;
    TRY(check(MPI_Ibarrier(m->all, &request), "MPI_Ibarrier"));
    return wait_until(m, &request, times * m->patience->seconds, SLEEP, "MPI_Ibarrier");
}

enum { START_LIMIT = 600 }; /* seconds */

static void end_start(int number)
{
    (void)number;
    static const char text[] = "zoodip: MPI did not start within 600 s: a rank hangs, or its node cannot be reached\n";
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written; // it ends either way
    _exit(ERROR_FAILED);
}

struct error mpi_open(const struct transport **transport, void **state, struct place *place,
                      const struct patience *patience, int *argc, char ***argv)
{
    static const struct transport calls = {
        .close = mpi_close,
        .sum = mpi_sum,
        .broadcast = mpi_broadcast,
        .broadcast_local = mpi_broadcast_local,
        .barrier = mpi_barrier,
        .barrier_local = mpi_barrier_local,
        .abort = mpi_abort,
        .called = mpi_called,
        .roll = mpi_roll,
        .split = mpi_split,
        .send = mpi_send,
        .poll = mpi_poll,
        .receive = mpi_receive,
        .gather = mpi_gather,
    };
    // Open MPI: a waiting rank yields its core to working ones; mpirun's own choice, or the user's, takes precedence
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    // MPI's own start waits forever, and ranks cannot ask one another for a sign of life before it ends
    signal(SIGALRM, end_start);
    alarm(START_LIMIT);
    int provided;
    TRY(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
    struct mpi *m = memory_alloc(1, sizeof *m);
    if (m)
        m->all = MPI_COMM_WORLD;
    struct error e = m ? find_place(m, place) : error_memory("the communicator");
    if (e.code != ERROR_NONE) {
        memory_free(m);
        MPI_Abort(MPI_COMM_WORLD, e.code);
        return e;
    }
    alarm(0);
    m->patience = patience;
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
