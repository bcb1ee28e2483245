"""Mean, least and most of each station's readings."""

import csv
import json
import statistics
import sys

source, target = sys.argv[1:]
stations = {}
with open(source, newline="") as file:
    for row in csv.DictReader(file):
        stations.setdefault(row["station"], []).append(float(row["celsius"]))
summary = {
    station: {"count": len(values), "mean": round(statistics.fmean(values), 2), "min": min(values), "max": max(values)}
    for station, values in sorted(stations.items())
}
with open(target, "w") as file:
    json.dump(summary, file, indent=2)
    file.write("\n")
