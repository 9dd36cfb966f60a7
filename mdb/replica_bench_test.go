package mdb_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// BenchmarkReplica measures, in turns, the time from the acknowledgement of a write until another connection sees the
// message on the replica, which is the floor, and until a handler has it: that of a subscription to the primary, that of
// one to the replica with notifications, and the time of AwaitWrite.
func BenchmarkReplica(b *testing.B) {
	m := newMirrored(b)
	m.notifying(b)
	writer := newStore(b, m.primary)
	stream := mdb.Category("bench").Stream("1")
	looking, err := m.replica.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer looking.Release()
	waits := waitingOnly()
	onReplica := m.open(b, waits...)
	onPrimary := newStore(b, m.primary, waits...)
	handlers := map[string]*follower{
		"replica": followCategory(b, onReplica, stream.Category(), mdb.FromEnd()),
		"primary": followCategory(b, onPrimary, stream.Category(), mdb.FromEnd()),
	}
	settled(b, onReplica)
	settled(b, onPrimary)
	ways := []string{"replay", "replica", "primary", "await"}
	times := make(map[string][]time.Duration)
	pace := time.NewTicker(12 * time.Millisecond) // about 80 writes a second
	defer pace.Stop()
	for b.Loop() {
		for _, way := range ways {
			<-pace.C
			w, err := writer.WriteMessage(b.Context(), stream, mdb.NewMessage("Happened", 1))
			if err != nil {
				b.Fatal(err)
			}
			begun := time.Now()
			switch way {
			case "replay":
				for there := false; !there; {
					if err := looking.QueryRow(b.Context(), `SELECT EXISTS (SELECT FROM message_store.messages WHERE global_position = $1)`, w.GlobalPosition).Scan(&there); err != nil {
						b.Fatal(err)
					}
				}
			case "await":
				if err := onReplica.AwaitWrite(context.Background(), stream, w); err != nil {
					b.Fatal(err)
				}
			default:
				if got := handlers[way].next(b); got.ID != w.ID {
					b.Fatalf("got %v", got)
				}
			}
			times[way] = append(times[way], time.Since(begun))
			for name, h := range handlers {
				if name != way {
					h.next(b)
				}
			}
		}
	}
	for _, way := range ways {
		all := slices.Sorted(slices.Values(times[way]))
		for name, part := range map[string]int{"p50": 50, "p99": 99} {
			b.ReportMetric(float64(all[(len(all)-1)*part/100].Microseconds())/1000, way+"-"+name+"-ms")
		}
	}
	b.ReportMetric(0, "ns/op")
	if stats := onReplica.Stats(); stats.ReplicaReads == 0 {
		b.Errorf("got stats %+v", stats)
	}
}
