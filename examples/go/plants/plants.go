// Package plants counts what grows where.
package plants

import (
	"bufio"
	"io"
	"sort"
	"strings"
)

// Bed is a place and what grows there.
type Bed struct {
	Place  string
	Plants []string
}

// Read reads lines of the form "PLACE: PLANT, PLANT".
func Read(from io.Reader) ([]Bed, error) {
	var beds []Bed
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		place, plants, found := strings.Cut(lines.Text(), ": ")
		if !found {
			continue
		}
		bed := Bed{Place: place, Plants: strings.Split(plants, ", ")}
		sort.Strings(bed.Plants)
		beds = append(beds, bed)
	}
	sort.Slice(beds, func(a, b int) bool { return len(beds[a].Plants) > len(beds[b].Plants) })
	return beds, lines.Err()
}
