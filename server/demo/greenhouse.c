/* What happens under the glass. */
#include "greenhouse.h"

#include <math.h>
#include <stdlib.h>

double water_in(const struct house *house)
{
    return house->soil + house->air + house->glass;
}

static void move(double *from, double *to, double amount)
{
    *from -= amount;
    *to += amount;
}

void pass_day(struct house *house, struct plant *plants, size_t count, double light)
{
    /* Plants drink and breathe out what they drank; the sun dries the soil. */
    for (size_t i = 0; i < count; i++) {
        double drink = plants[i].thirst * light * house->soil / (house->soil + 200.0);
        move(&house->soil, &house->air, drink);
        plants[i].height += 0.03 * drink * exp(-plants[i].height / 40.0);
    }
    move(&house->soil, &house->air, 0.01 * light * house->soil);
    /* At night the vapour settles on the glass and runs down again. */
    move(&house->air, &house->glass, house->air * (1.0 - exp(-0.7)));
    move(&house->glass, &house->soil, house->glass * 0.8);
}

static int taller_first(const void *a, const void *b)
{
    double difference = ((const struct plant *)b)->height - ((const struct plant *)a)->height;
    return (difference > 0.0) - (difference < 0.0);
}

void sort_by_height(struct plant *plants, size_t count)
{
    qsort(plants, count, sizeof *plants, taller_first);
}
