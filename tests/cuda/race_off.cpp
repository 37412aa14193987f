// The doors of race.h where kernels are not watched: nobody is behind them.
#include "race.h"

void race_read(uintptr_t, size_t)
{
}

void race_write(uintptr_t, size_t)
{
}

void race_atomic(uintptr_t, size_t)
{
}

void race_promise(uintptr_t, size_t)
{
}

void race_land(uintptr_t, size_t)
{
}

void race_launch()
{
}

void race_block()
{
}

void race_barrier()
{
}

void race_warp_barrier()
{
}
