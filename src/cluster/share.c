#include "cluster/share.h"

struct share share_of(int64_t pieces, int rank, int size)
{
    int64_t least = pieces / size, more = pieces % size;
    return (struct share){rank * least + (rank < more ? rank : more), least + (rank < more)};
}
