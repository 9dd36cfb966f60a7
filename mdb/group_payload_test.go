package mdb_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGroupPayload checks that JSON which Go accepts and the server refuses fails only the write that has it, with the error of a
// write by itself: alone in a group, and as the first, in the middle and as the last of one.
func TestGroupPayload(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		for _, tt := range []struct{ name, code, json string }{
			{"number", beyondNumericCode, beyondNumeric},
			{"depth", "54001", deep},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				s := newStore(t, groupPool(t, parameter("max_stack_depth", "400kB")), way...)
				mdb.NeverRest(s)
				mdb.GroupAll(s)
				for others, places := range map[int][]int{0: {0}, 3: {0, 2, 3}} {
					for _, place := range places {
						category := mdbtest.Category("payload")
						bad := proposals(3)
						bad[1].Data = json.RawMessage(tt.json)
						if place == 2 {
							bad[1].Data, bad[2].Metadata = nil, json.RawMessage(tt.json)
						}
						release := mdb.HoldTurn(s, category)
						var queue []*queued
						for i := range others + 1 {
							if i == place {
								queue = append(queue, enqueue(t, s, category.Stream("bad"), bad))
							} else {
								queue = append(queue, enqueue(t, s, category.Stream("good"), proposals(1)))
							}
						}
						release()
						written := 0
						for i, q := range queue {
							got, want := outcomeOf(q.result(t)), fmt.Sprint("written ", written)
							if i == place {
								want = "refused " + tt.code
							} else {
								written++
							}
							if got != want {
								t.Errorf("write %d of %d: got %q, want %q", i, others+1, got, want)
							}
						}
						if n := len(rows(t, s.Pool(), category)); n != others {
							t.Errorf("got %d messages, want %d", n, others)
						}
						wantNoGroups(t, s)
					}
				}
			})
		}
	})
}
