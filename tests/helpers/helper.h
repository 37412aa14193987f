/* tests/helpers/helper.h
 *
 * What the helper programs share: how they end, with an error on stderr and its code as the exit code, and rows of
 * numbers that they read from and write to safetensors files. Included by one file of each program.
 */
#ifndef ZOODIP_TESTS_HELPERS_HELPER_H
#define ZOODIP_TESTS_HELPERS_HELPER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cluster/comm.h"
#include "files/safetensors.h"

/* The exit code of a program that ends with this error; says what it is. */
static inline int helper_end(const char *program, struct error e)
{
    if (e.code != ERROR_NONE)
        fprintf(stderr, "%s: %s\n", program, e.text);
    return e.code;
}

/* The main of a program that runs on MPI ranks: `run` on each of them. What went wrong is said by rank 0, before any
 * rank can end, since mpirun then ends the others. */
static inline int helper_on_ranks(const char *program, int argc, char **argv,
                                  struct error (*run)(int argc, char **argv, struct comm *comm))
{
    struct comm *comm;
    struct error e = comm_open(&comm, &argc, &argv);
    if (e.code != ERROR_NONE)
        return helper_end(program, e);
    e = run(argc, argv, comm);
    int code = comm_rank(comm) == 0 ? helper_end(program, e) : e.code;
    comm_close(comm);
    return code;
}

/* A tensor [rows, columns] of a file, copied so that it is aligned, to be freed with memory_free. Without it the
 * program ends. */
static inline void *helper_rows(const struct safetensors *file, const char *name, enum dtype type, int64_t *rows,
                                int64_t *columns)
{
    const struct entry *e = safetensors_find(file, name);
    if (!e || e->dimensions != 2 || e->type != type) {
        fprintf(stderr, "%s: no %s %s [rows, columns]\n", file->path, name, dtype_name(type));
        exit(ERROR_BAD_INPUT);
    }
    size_t bytes = (size_t)(e->count * dtype_size(type));
    void *copy = memory_alloc(e->count, dtype_size(type));
    if (!copy) {
        fprintf(stderr, "%s: no memory for %s\n", file->path, name);
        exit(ERROR_FAILED);
    }
    *rows = e->shape[0];
    *columns = e->shape[1];
    return memcpy(copy, e->data, bytes);
}

/* The entry of a tensor [rows, columns] to be written. */
static inline struct entry helper_entry(const char *name, enum dtype type, int64_t rows, int64_t columns,
                                        const void *data)
{
    return (struct entry){name, type, 2, {rows, columns}, rows * columns, data};
}

#endif
