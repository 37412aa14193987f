/* base/nearest.h
 *
 * "Did you mean ...?": the known name that a mistyped one was meant to be. Near are names that a slip or two turns into
 * one another (a letter too many, too few, another one, or two that changed places; one slip for every three letters),
 * and names of which one begins with the other. Everything else is far: no hint is better than a wrong one.
 */
#ifndef ZOODIP_BASE_NEAREST_H
#define ZOODIP_BASE_NEAREST_H

/* The slips between what was typed and a name; -1 where they are far from one another. */
int nearest_edits(const char *typed, const char *name);

struct nearest {
    const char *name; /* NULL: none so far */
    int edits;
};

/* `best` becomes this name where it is nearer than those tried before. Begin with {NULL, 0}. */
void nearest_try(struct nearest *best, const char *typed, const char *name);

#endif
