/* The communicator over MPI. */
#ifdef ZOODIP_MPI

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cluster/internal.h"

struct mpi {
    MPI_Comm all, node;
};

bool comm_mpi_launched(void)
{
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (getenv(marks[i]))
            return true;
    return false;
}

static struct error check(int code, const char *call)
{
    if (code == MPI_SUCCESS)
        return ok();
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, text, &length);
    return error_failed("%s: %s", call, text);
}

static struct mpi *mpi_of(struct comm *c)
{
    return c->own;
}

static void close_mpi(struct comm *c)
{
    MPI_Comm_free(&mpi_of(c)->node);
    MPI_Comm_free(&mpi_of(c)->all);
    memory_free(c->own);
    MPI_Finalize();
}

static struct error sum_mpi(struct comm *c, double *values, int64_t count)
{
    return check(MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_DOUBLE, MPI_SUM, mpi_of(c)->all), "MPI_Allreduce");
}

/* In pieces, since a count is an int. */
static struct error broadcast_over(MPI_Comm over, void *data, int64_t bytes, int root)
{
    const int64_t most = 1 << 30;
    for (int64_t at = 0; at < bytes; at += most) {
        int64_t piece = bytes - at < most ? bytes - at : most;
        TRY(check(MPI_Bcast((char *)data + at, (int)piece, MPI_BYTE, root, over), "MPI_Bcast"));
    }
    return ok();
}

static struct error broadcast_mpi(struct comm *c, void *data, int64_t bytes, int root)
{
    return broadcast_over(mpi_of(c)->all, data, bytes, root);
}

static struct error node_broadcast_mpi(struct comm *c, void *data, int64_t bytes)
{
    return broadcast_over(mpi_of(c)->node, data, bytes, 0);
}

static struct error barrier_mpi(struct comm *c)
{
    return check(MPI_Barrier(mpi_of(c)->all), "MPI_Barrier");
}

static struct error node_barrier_mpi(struct comm *c)
{
    return check(MPI_Barrier(mpi_of(c)->node), "MPI_Barrier");
}

static struct error lowest_mpi(struct comm *c, int *rank)
{
    return check(MPI_Allreduce(MPI_IN_PLACE, rank, 1, MPI_INT, MPI_MIN, mpi_of(c)->all), "MPI_Allreduce");
}

static const struct comm_ops mpi_ops = {
    close_mpi, sum_mpi, broadcast_mpi, barrier_mpi, lowest_mpi, node_barrier_mpi, node_broadcast_mpi,
};

static struct error split(struct comm *c, struct mpi *m)
{
    TRY(check(MPI_Comm_dup(MPI_COMM_WORLD, &m->all), "MPI_Comm_dup"));
    MPI_Comm_set_errhandler(m->all, MPI_ERRORS_RETURN);
    MPI_Comm_rank(m->all, &c->rank);
    MPI_Comm_size(m->all, &c->size);
    TRY(check(MPI_Comm_split_type(m->all, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &m->node), "MPI_Comm_split_type"));
    MPI_Comm_rank(m->node, &c->local_rank);
    MPI_Comm_size(m->node, &c->ranks_here);
    return ok();
}

struct error comm_mpi_open(struct comm *c, int *argc, char ***argv)
{
    int provided;
    TRY(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
    struct mpi *m = memory_take(1, sizeof *m);
    if (!m)
        return error_memory("the communicator");
    struct error e = split(c, m);
    if (e.code != ERROR_NONE) {
        memory_free(m);
        return e;
    }
    c->ops = &mpi_ops;
    c->own = m;
    return ok();
}

const char *comm_mpi_library(void)
{
#ifdef OMPI_MAJOR_VERSION
#define TEXT_OF(x) #x
#define VERSION_OF(a, b, c) "Open MPI " TEXT_OF(a) "." TEXT_OF(b) "." TEXT_OF(c)
    return VERSION_OF(OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#else
    return "MPI";
#endif
}

#else
typedef int comm_without_mpi; /* a file must hold something */
#endif
