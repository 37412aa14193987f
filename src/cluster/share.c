#include "cluster/share.h"

struct share share_of(int64_t count, int rank, int size)
{
    int64_t whole = count / size, larger = count % size;
    return (struct share){
        .first = rank * whole + (rank < larger ? rank : larger),
        .count = whole + (rank < larger),
    };
}
