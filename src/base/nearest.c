#include "base/nearest.h"

#include <stddef.h>
#include <string.h>

enum { LONGEST = 64, BEGINNING = 3 }; /* longest name; shortest prefix that counts */

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Restricted Damerau-Levenshtein distance: insert, remove, replace, swap two neighbours. */
static int distance(const char *a, const char *b)
{
    int rows[3][LONGEST + 1]; /* of this letter of a, the one before, and the one before that, in turn */
    int length = (int)strlen(b);
    for (int j = 0; j <= length; j++)
        rows[0][j] = j;
    int i = 1;
    for (; a[i - 1]; i++) {
        int *row = rows[i % 3];
        const int *before = rows[(i + 2) % 3], *earlier = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= length; j++) {
            row[j] = least(before[j - 1] + (a[i - 1] != b[j - 1]), least(before[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], earlier[j - 2] + 1);
        }
    }
    return rows[(i - 1) % 3][length];
}

int nearest_edits(const char *typed, const char *name)
{
    size_t length = strlen(typed), other = strlen(name), shorter = length < other ? length : other;
    if (length > LONGEST || other > LONGEST)
        return -1;
    int allowed = length < 2 ? 0 : length < 6 ? 1 : (int)(length / 3);
    int edits = distance(typed, name);
    if (edits <= allowed)
        return edits;
    // such as --embed for --embedding: as good as the most slips that are allowed
    return shorter >= BEGINNING && strncmp(typed, name, shorter) == 0 ? allowed : -1;
}

void nearest_try(struct nearest *best, const char *typed, const char *name)
{
    int edits = nearest_edits(typed, name);
    if (edits < 0 || (best->name && edits >= best->edits))
        return;
    best->name = name;
    best->edits = edits;
}
