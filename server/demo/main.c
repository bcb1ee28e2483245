/* London to Sydney under sail: 150 days in a sealed glass case. Writes logbook.txt. */
#include "greenhouse.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DAYS = 150, ROWS = 7, CELL = 9 };
static const double CM_A_ROW = 6.0;

static void repeat(char what, int times)
{
    while (times-- > 0)
        putchar(what);
}

static void draw(const struct plant *plants, size_t count)
{
    int width = (int)count * CELL;
    printf("    "), repeat('_', width - 2), printf("\n   /");
    repeat(' ', width - 2), printf("\\\n  /"), repeat('_', width), printf("\\\n");
    for (int row = ROWS; row > 0; row--) {
        printf("  |");
        for (size_t i = 0; i < count; i++) {
            long top = lround(plants[i].height / CM_A_ROW);
            const char *leaf = row > top ? "   " : row == top ? "\\|/" : row % 2 ? " |/" : "\\| ";
            printf("   %s   ", leaf);
        }
        printf("|\n");
    }
    printf("  |"), repeat('~', width), printf("|\n  '"), repeat('=', width), printf("'\n");
}

int main(void)
{
    struct plant plants[] = {
        {"maidenhair fern", 21.0, 8.0}, {"wood sorrel", 11.0, 4.0}, {"primrose", 16.0, 6.0}, {"sedge", 27.0, 12.0},
    };
    const size_t count = sizeof plants / sizeof *plants;
    struct plant before[sizeof plants / sizeof *plants];
    memcpy(before, plants, sizeof plants);
    struct house house = {.soil = 900.0, .air = 60.0, .glass = 40.0};
    const double sealed = water_in(&house), degree = acos(-1.0) / 180.0;

    FILE *logbook = fopen("logbook.txt", "w");
    if (!logbook)
        return perror("logbook.txt"), 1;
    fprintf(logbook, "day latitude light soil_ml air_ml glass_ml\n");
    for (int day = 1; day <= DAYS; day++) {
        double latitude = 51.5 - (51.5 + 33.9) * day / DAYS;
        double light = pow(cos(latitude * degree), 1.5);
        pass_day(&house, plants, count, light);
        fprintf(logbook, "%d %+.1f %.3f %.3f %.3f %.3f\n", day, latitude, light, house.soil, house.air, house.glass);
    }
    if (fclose(logbook))
        return perror("logbook.txt"), 1;

    printf("\n  London to Sydney, %d days in a sealed case:\n\n", DAYS);
    sort_by_height(plants, count);
    draw(plants, count);
    printf("\n  %-16s %10s %10s\n", "plant", "London cm", "Sydney cm");
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            if (!strcmp(plants[i].name, before[j].name))
                printf("  %-16s %10.1f %10.1f\n", plants[i].name, before[j].height, plants[i].height);
    printf("\n  water sealed in %.3f ml, water on arrival %.3f ml\n\n", sealed, water_in(&house));
    return 0;
}
