/* kernels/program.cu
 *
 * Programs as graphs.
 *
 * Idea. A program is captured once, as a CUDA graph, and replayed from then on: the host enqueues one thing for a whole
 * evaluation. It is captured again if memory that its kernels point into has moved (device->generation).
 *
 * Collectives are not part of graphs but lie between two: a program with k of them is k + 1 graphs. For "whether an
 * operation launch is graph-captured [...] must be uniform over all ranks", and a graph with collectives may be launched
 * only by ranks "using the graph derived from that collective capture" (NCCL's guide, "Using NCCL with CUDA Graphs"):
 * then a rank whose memory has moved could not capture its step again alone. And what a communicator that does not
 * block (nccl.cu) would put into a capture, from a thread of its own, the guide does not say.
 */
#include "kernels/cuda.h"
extern "C" {
#include "base/memory.h"
}

/* A graph, and what follows it. */
struct piece {
    cudaGraphExec_t exec;
    struct collective then; /* of nothing after the last */
};

/* A program's captured form. */
struct pieces {
    struct piece *all; /* [count] */
    int64_t count, room;
};

static void free_pieces(struct pieces *p)
{
    for (int64_t i = 0; i < p->count; i++)
        cudaGraphExecDestroy(p->all[i].exec);
    memory_free(p->all);
    memory_free(p);
}

void cuda_free_compiled(struct program *p)
{
    if (p->compiled)
        free_pieces((struct pieces *)p->compiled);
    p->compiled = NULL;
}

static struct error add_piece(struct pieces *p, cudaGraph_t graph, const struct collective *then)
{
    struct piece *more = (struct piece *)memory_grow(p->all, p->count, &p->room, sizeof *more);
    if (!more)
        return error_memory("a program's graphs");
    p->all = more;
    more += p->count;
    TRY(cuda_error(cudaGraphInstantiate(&more->exec, graph, 0), "cudaGraphInstantiate"));
    more->then = *then;
    p->count++;
    return ok();
}

static struct error begin_piece(struct cuda *c)
{
    // relaxed: a kernel's first launch may load its code, for which the driver allocates memory
    return cuda_error(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
}

static struct error end_piece(struct cuda *c, const struct collective *then)
{
    cudaGraph_t graph = NULL;
    struct error e = cuda_error(cudaStreamEndCapture(c->stream, &graph), "cudaStreamEndCapture");
    if (e.code == ERROR_NONE)
        e = add_piece(c->recording, graph, then);
    if (graph)
        cudaGraphDestroy(graph);
    return e;
}

void cuda_collect(struct device *device, const struct collective *what)
{
    struct cuda *c = cuda_of(device);
    struct error e = c->recording ? end_piece(c, what) : nccl_collect(device, what);
    if (e.code == ERROR_NONE && c->recording)
        e = begin_piece(c);
    if (e.code != ERROR_NONE)
        device_fail(device, e); // no op is called after that
}

/* Records the body. */
static struct error record(struct program *p, struct pieces *to)
{
    const struct collective nothing = {};
    struct cuda *c = cuda_of(p->device);
    TRY(begin_piece(c));
    c->recording = to;
    struct error e = program_pass(p);
    if (e.code == ERROR_NONE)
        e = p->device->error; // an op's, which is more precise than the capture's
    struct error ended = end_piece(c, &nothing);
    c->recording = NULL;
    return error_first(e, ended);
}

static struct error compile(struct program *p)
{
    cuda_free_compiled(p);
    struct pieces *pieces = (struct pieces *)memory_alloc(1, sizeof *pieces);
    if (!pieces)
        return error_memory("a program's graphs");
    struct error e = nccl_wait(p->device);
    if (e.code == ERROR_NONE)
        e = record(p, pieces);
    if (e.code != ERROR_NONE) {
        free_pieces(pieces);
        return e;
    }
    p->compiled = pieces;
    p->generation = p->device->generation;
    return ok();
}

struct error cuda_run(struct program *p)
{
    struct device *device = p->device;
    if (device->error.code != ERROR_NONE)
        return ok(); // it sticks until device_wait
    if (device->finds_outliers || device->watches)
        return program_pass(p); // the host looks at what ops have computed, which a graph has no place for
    if (!p->compiled || p->generation != device->generation)
        TRY(compile(p));
    const struct pieces *pieces = (const struct pieces *)p->compiled;
    for (int64_t i = 0; i < pieces->count; i++) {
        const struct piece *piece = &pieces->all[i];
        TRY(cuda_error(cudaGraphLaunch(piece->exec, cuda_of(device)->stream), "cudaGraphLaunch"));
        if (piece->then.at)
            TRY(nccl_collect(device, &piece->then));
    }
    return ok();
}
