#include "zo/basis.h"

#include "base/memory.h"

void basis_free(struct basis *b)
{
    memory_free(b->rows);
    *b = (struct basis){0};
}

/* The first unit vectors. */
static struct error units(struct basis *b, int64_t rank, int64_t dim)
{
    basis_free(b);
    *b = (struct basis){.rank = rank, .dim = dim, .rows = memory_alloc(rank * dim, sizeof(float)), .held = 1};
    if (!b->rows)
        return error_memory("the directions");
    for (int64_t i = 0; i < rank; i++)
        b->rows[i * dim + i] = 1;
    return ok();
}

struct error basis_table(struct basis *b, const struct training_parts *parts)
{
    return units(b, parts->text->config.width, parts->text->config.width);
}

struct error text_basis_new(struct text_basis *t, const struct training_parts *parts, int64_t arena)
{
    (void)arena;
    *t = (struct text_basis){.parts = *parts};
    return ok();
}

void text_basis_free(struct text_basis *t)
{
    *t = (struct text_basis){0};
}

struct error text_basis_find(struct text_basis *t, const float *embedding, int64_t least, int64_t rank, struct basis *b)
{
    (void)embedding;
    int64_t dim = t->parts.config->token.vectors * t->parts.text->config.width;
    return units(b, rank ? rank : least, dim);
}
