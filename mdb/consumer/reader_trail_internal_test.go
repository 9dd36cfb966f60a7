package consumer

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestReaderContradicted checks that a page which begins before a cursor, and does not have the message after which that continues, is not passed
// on: the message is lost, and others have its position.
func TestReaderContradicted(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.fill(10, 2)
	old := s.messages
	begin := func(i int) source.Checkpoint { return through(source.Checkpoint{}, old[:i]) }
	for name, test := range map[string]struct {
		kept int // messages of the old history
		want bool
	}{
		"the same messages":       {10, false},
		"the last one is another": {7, true},
		"all are others":          {4, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := &shelf{t: t, next: old[test.kept-1].GlobalPosition + 1, messages: append([]mdb.Message(nil), old[:test.kept]...)}
			now.fill(12-test.kept, 2)
			rewound := 0
			r := newReader(readerConfig{
				partitions: 2, trail: new(trail), sink: &drain{},
				rewound: func(string, int64, []source.Anchor) { rewound++ },
			})
			r.open(opening{partition{Number: 0}, 1, begin(4)}, opening{partition{Number: 1}, 1, begin(8)})
			r.plan()
			messages := now.messages[4:]
			page := source.Page[mdb.Message]{Messages: messages, End: through(begin(4), messages)}
			got, err := r.follow(begin(4), &page)
			if got != test.want || err != nil || (rewound > 0) != test.want {
				t.Errorf("got %v, %v and %d rewound, want %v", got, err, rewound, test.want)
			}
		})
	}
}
