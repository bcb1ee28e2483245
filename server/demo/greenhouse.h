/* A Wardian case: plants, soil and a little water under glass, sealed for a long voyage. */
#ifndef GREENHOUSE_H
#define GREENHOUSE_H

#include <stddef.h>

struct plant {
    const char *name;
    double thirst; /* ml of water a day in full light */
    double height; /* cm */
};

/* All the water there is, in ml. It moves; none gets in and none gets out. */
struct house {
    double soil, air, glass;
};

double water_in(const struct house *house);
void pass_day(struct house *house, struct plant *plants, size_t count, double light);
void sort_by_height(struct plant *plants, size_t count);

#endif
