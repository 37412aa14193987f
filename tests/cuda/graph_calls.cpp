// "Graph Management": what a capture recorded, instantiated and launched into a stream any number of times. A kernel's
// argument and a copy's addresses are those of the capture.
#include <set>

#include "runtime.h"

int64_t graphs_alive;

struct CUgraph_st {
    std::vector<operation> work;
};

struct CUgraphExec_st {
    std::vector<operation> work;
};

static std::set<void *> &graphs()
{
    static std::set<void *> all;
    return all;
}

static void enlist(void *graph)
{
    graphs().insert(graph);
    graphs_alive++;
}

// Whether it existed, so that it could be removed.
static bool strike(void *graph)
{
    if (graphs().erase(graph) == 0)
        return false;
    graphs_alive--;
    return true;
}

cudaGraph_t graph_of(const std::vector<operation> &work)
{
    cudaGraph_t graph = new CUgraph_st{work};
    enlist(graph);
    return graph;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    cudaError_t code = enter("cudaGraphInstantiate", cudaErrorMemoryAllocation);
    if (code == cudaSuccess && (!exec || !graphs().count(graph) || flags != 0))
        code = cudaErrorInvalidValue;
    if (code != cudaSuccess)
        return leave(code);
    *exec = new CUgraphExec_st{graph->work};
    enlist(*exec);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    cudaError_t code = enter("cudaGraphLaunch", cudaErrorLaunchOutOfResources);
    if (code == cudaSuccess && !graphs().count(exec))
        code = cudaErrorInvalidValue;
    if (code == cudaSuccess && !stream_of(stream))
        code = cudaErrorInvalidResourceHandle;
    if (code != cudaSuccess)
        return leave(code);
    for (const operation &op : exec->work)
        if (code == cudaSuccess)
            code = enqueue(stream, op);
    return leave(code);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    cudaError_t code = enter("cudaGraphDestroy", cudaSuccess);
    if (!strike(graph))
        return leave(cudaErrorInvalidValue);
    delete graph;
    return leave(code);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    cudaError_t code = enter("cudaGraphExecDestroy", cudaSuccess);
    if (!strike(exec))
        return leave(cudaErrorInvalidValue);
    delete exec;
    return leave(code);
}
