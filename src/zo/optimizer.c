#include "zo/optimizer.h"

#include <math.h>

#include "base/memory.h"

struct error optimizer_new(struct optimizer *o, int64_t dim, double beta1, double beta2, double eps)
{
    *o = (struct optimizer){.dim = dim, .beta1 = beta1, .beta2 = beta2, .eps = eps};
    o->m = memory_alloc(dim, sizeof *o->m);
    o->v = memory_alloc(dim, sizeof *o->v);
    if (o->m && o->v)
        return ok();
    optimizer_free(o);
    return error_memory("the optimizer");
}

void optimizer_free(struct optimizer *o)
{
    memory_free(o->m);
    memory_free(o->v);
    *o = (struct optimizer){0};
}

void optimizer_rates(const struct optimizer *o, int64_t step, double lr, double *rate, double *root)
{
    *rate = -lr / (1 - pow(o->beta1, (double)step));
    *root = sqrt(1 - pow(o->beta2, (double)step));
}
