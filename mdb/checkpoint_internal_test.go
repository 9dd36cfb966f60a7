package mdb

import (
	"math"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/source"
)

// TestCheckpointSize checks the documented sizes of a checkpoint's text: those of an ordinary
// category, and the largest, whose numbers all have their greatest length.
func TestCheckpointSize(t *testing.T) {
	t.Parallel()
	c := source.At(0)
	for p := range int64(1_000_000) {
		c = c.Advance(1, func(int) anchor { return anchor{Position: p + 1, ID: uuid.New(), Time: 8e14 + p*5_000_000} })
	}
	text := CategoryCheckpoint{namedCheckpoint{"a", c}}.String()
	if len(text) > 500 || len(c.Anchors()) < 8 {
		t.Errorf("got %d bytes with %d anchors, want less than 500", len(text), len(c.Anchors()))
	}

	var anchors []anchor // the last of which are not needed to reach back, and are the largest
	for i := range 17 {
		anchors = append(anchors, anchor{Position: math.MaxInt64 >> i, ID: uuid.Max, Time: math.MaxInt64 * int64(i%2)})
	}
	n := namedCheckpoint{"a", source.Known(anchors)}
	largest := len(n.text(categoryKind)) + (17-len(n.at.Anchors()))*(16+9+10)*4/3
	if largest > 830 {
		t.Errorf("got %d bytes with 17 anchors, want at most 830", largest)
	}
}
