/* The MPI transport; an empty file without MPI. */
#include "cluster/transport.h"

#ifdef ZOODIP_MPI

#include <mpi.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/memory.h"

struct mpi {
    MPI_Comm all, here;
    bool part; /* of another: only the whole ends MPI */
};

enum { MESSAGE = 1 }; /* the tag of comm_send's messages */

static struct error check(int result, const char *call)
{
    if (result == MPI_SUCCESS)
        return ok();
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(result, text, &length);
    return error_failed("%s: %s", call, text);
}

static void mpi_close(void *state)
{
    struct mpi *m = state;
    bool part = m->part;
    MPI_Comm_free(&m->here);
    if (part)
        MPI_Comm_free(&m->all);
    memory_free(m);
    if (!part)
        MPI_Finalize();
}

static struct error mpi_sum(void *state, double *values, int count)
{
    const struct mpi *m = state;
    return check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, m->all), "MPI_Allreduce");
}

static struct error mpi_broadcast(void *state, void *data, int bytes, int root)
{
    const struct mpi *m = state;
    return check(MPI_Bcast(data, bytes, MPI_BYTE, root, m->all), "MPI_Bcast");
}

static struct error mpi_broadcast_here(void *state, void *data, int bytes)
{
    const struct mpi *m = state;
    return check(MPI_Bcast(data, bytes, MPI_BYTE, 0, m->here), "MPI_Bcast");
}

static struct error mpi_barrier(void *state)
{
    const struct mpi *m = state;
    return check(MPI_Barrier(m->all), "MPI_Barrier");
}

static struct error mpi_barrier_here(void *state)
{
    const struct mpi *m = state;
    return check(MPI_Barrier(m->here), "MPI_Barrier");
}

static void mpi_abort(void *state, int code)
{
    const struct mpi *m = state;
    MPI_Abort(m->all, code);
}

/* Of m->all, which is there. */
static struct error find_place(struct mpi *m, struct place *place)
{
    TRY(check(MPI_Comm_set_errhandler(m->all, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    TRY(check(MPI_Comm_rank(m->all, &place->rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_size(m->all, &place->size), "MPI_Comm_size"));
    int kind = MPI_COMM_TYPE_SHARED;
    TRY(check(MPI_Comm_split_type(m->all, kind, place->rank, MPI_INFO_NULL, &m->here), "MPI_Comm_split_type"));
    TRY(check(MPI_Comm_set_errhandler(m->here, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    TRY(check(MPI_Comm_rank(m->here, &place->rank_here), "MPI_Comm_rank"));
    return check(MPI_Comm_size(m->here, &place->ranks_here), "MPI_Comm_size");
}

static struct error mpi_split(void *state, int group, void **part, struct place *place)
{
    const struct mpi *m = state;
    MPI_Comm all;
    int rank;
    TRY(check(MPI_Comm_rank(m->all, &rank), "MPI_Comm_rank"));
    TRY(check(MPI_Comm_split(m->all, group, rank, &all), "MPI_Comm_split"));
    struct mpi *p = memory_take(1, sizeof *p);
    if (!p)
        MPI_Abort(m->all, ERROR_FAILED); // the others of the group are on their way into its first collective
    *p = (struct mpi){.all = all, .part = true};
    *part = p;
    return find_place(p, place);
}

static struct error mpi_send(void *state, const void *data, int bytes, int to)
{
    const struct mpi *m = state;
    return check(MPI_Send(data, bytes, MPI_BYTE, to, MESSAGE, m->all), "MPI_Send");
}

static struct error mpi_poll(void *state, int *from)
{
    const struct mpi *m = state;
    int there;
    MPI_Status status;
    TRY(check(MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE, m->all, &there, &status), "MPI_Iprobe"));
    *from = there ? status.MPI_SOURCE : -1;
    return ok();
}

static struct error mpi_receive(void *state, void *data, int bytes, int from)
{
    const struct mpi *m = state;
    return check(MPI_Recv(data, bytes, MPI_BYTE, from, MESSAGE, m->all, MPI_STATUS_IGNORE), "MPI_Recv");
}

static struct error mpi_arrive(void *state, void **meeting)
{
    const struct mpi *m = state;
    MPI_Request *request = memory_take(1, sizeof *request);
    if (!request)
        return error_memory("a barrier");
    *meeting = request;
    return check(MPI_Ibarrier(m->all, request), "MPI_Ibarrier");
}

static struct error mpi_met(void *state, void *meeting, bool *met)
{
    (void)state;
    int done = 0;
    struct error e = check(MPI_Test(meeting, &done, MPI_STATUS_IGNORE), "MPI_Test");
    *met = done != 0;
    if (done || e.code != ERROR_NONE)
        memory_free(meeting);
    return e;
}

struct error mpi_open(const struct transport **transport, void **state, struct place *place, int *argc, char ***argv)
{
    static const struct transport calls = {
        .close = mpi_close,
        .sum = mpi_sum,
        .broadcast = mpi_broadcast,
        .broadcast_here = mpi_broadcast_here,
        .barrier = mpi_barrier,
        .barrier_here = mpi_barrier_here,
        .abort = mpi_abort,
        .split = mpi_split,
        .send = mpi_send,
        .poll = mpi_poll,
        .receive = mpi_receive,
        .arrive = mpi_arrive,
        .met = mpi_met,
    };
    // Open MPI: a rank that waits gives its core to whoever works; mpirun's own choice, or the user's, goes first
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    int provided;
    TRY(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
    struct mpi *m = memory_take(1, sizeof *m);
    if (m)
        m->all = MPI_COMM_WORLD;
    struct error e = m ? find_place(m, place) : error_memory("the communicator");
    if (e.code != ERROR_NONE) {
        memory_free(m);
        MPI_Abort(MPI_COMM_WORLD, e.code);
        return e;
    }
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
