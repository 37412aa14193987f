/* base/nearest.h
 *
 * "Did you mean ...?": finds the known name that a mistyped one was meant to be. Two names are near if a slip or two
 * turns one into the other (a letter added, missing, wrong, or swapped with its neighbour; one slip for every three
 * letters) or if one begins with the other. Everything else is far: no hint is better than a wrong one.
 */
#ifndef ZOODIP_BASE_NEAREST_H
#define ZOODIP_BASE_NEAREST_H

/* The number of slips between what was typed and a name; -1 if they are far apart. */
int nearest_edits(const char *typed, const char *name);

struct nearest {
    const char *name; /* NULL: none so far */
    int edits;
};

/* Sets `best` to this name if it is nearer than those tried before. Begin with {NULL, 0}. */
void nearest_try(struct nearest *best, const char *typed, const char *name);

#endif
