package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// An interlude is a part of a list: each is called before a request that contains its text is
// sent, one after the other.
type interlude struct {
	request string
	call    func()
}

type interludes struct {
	mu   sync.Mutex
	list []interlude
}

func (i *interludes) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return interludeConn{conn, i}, nil
	}
}

func (i *interludes) set(list ...interlude) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list = list
}

// left returns how many were not called.
func (i *interludes) left() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.list)
}

type interludeConn struct {
	net.Conn
	*interludes
}

func (c interludeConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if len(c.list) > 0 && bytes.Contains(b, []byte(c.list[0].request)) {
		c.list[0].call()
		c.list = c.list[1:]
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// TestUnreadableIsDeleted checks that a message which cannot be read, and which is deleted at
// any time while it is searched for, ends no read: the page has everything else. It checks
// the same of a subscription, which calls neither OnUnreadable nor OnRetry.
func TestUnreadableIsDeleted(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		for _, tt := range []struct {
			stream, condition bool
			requests          []string // before which it is deleted
		}{
			{true, false, []string{"identify_in_stream", "direct_message"}},
			{false, false, []string{"identify_in_category", "direct_message"}},
			{true, true, []string{"position <= ", "identify_in_stream"}},
			{false, true, []string{"global_position <= ", "identify_message"}},
		} {
			for _, request := range tt.requests {
				for _, last := range []bool{false, true} {
					if testing.Short() && last == (way == "direct") {
						continue
					}
					t.Run(fmt.Sprintf("%s, stream %t, condition %t, before %s, last %t", way, tt.stream, tt.condition, request, last), func(t *testing.T) {
						t.Parallel()
						l := newDeletion(t, opts...)
						want := []int64{0, 1, 2}
						if !last {
							l.insert(4, harmless)
							want = append(want, 4)
						}
						var ofStream mdb.StreamOptions
						var ofCategory mdb.CategoryOptions
						if tt.condition {
							condition := mdb.WithCondition("type = 'Happened'")
							ofStream, ofCategory = append(ofStream, condition), append(ofCategory, condition)
						}

						l.insert(3, poisonous)
						l.set(interlude{request, l.remove})
						var ms []mdb.Message
						var err error
						if tt.stream {
							ms, err = l.GetStreamMessages(t.Context(), "account-1", ofStream)
						} else {
							ms, err = l.GetCategoryMessages(t.Context(), "account", ofCategory)
						}
						if got := streamPositions(ms); err != nil || !slices.Equal(got, want) {
							t.Errorf("got positions %v, error %v, want %v", got, err, want)
						}
						if l.left() != 0 {
							t.Fatal("the message was not deleted")
						}

						l.insert(3, poisonous)
						l.set(interlude{request, l.remove})
						unreadable := mdb.OnUnreadable(func(_ context.Context, err *mdb.UnreadableError) error {
							t.Errorf("OnUnreadable is called with %v", err)
							return err
						})
						retry := mdb.OnRetry(func(r mdb.Retry) { t.Errorf("got retry %v", r) })
						var r *recipient
						if tt.stream {
							r = receiveStream(t, l.Store, "account-1", ofStream, unreadable, retry)
						} else {
							r = receiveCategory(t, l.Store, "account", ofCategory, unreadable, retry)
						}
						if got := streamPositions(r.next(t, len(want))); !slices.Equal(got, want) {
							t.Errorf("a subscription: got positions %v, want %v", got, want)
						}
						r.untilLive(t)
						if l.left() != 0 {
							t.Fatal("the message was not deleted under the subscription")
						}
						l.insert(5, harmless)
						if got := r.next(t, 1); got[0].Position != 5 {
							t.Errorf("a subscription: got position %d, want 5", got[0].Position)
						}
						r.stop(t)
					})
				}
			}
		}
	}
}

// TestUnreadableIsNeverFound checks that a read ends with the server's error if it fails
// again and again, and each search finds no message because of which it fails.
func TestUnreadableIsNeverFound(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		for _, condition := range []mdb.SQL{"", "type = 'Happened'"} {
			t.Run(way+", "+string(condition), func(t *testing.T) {
				t.Parallel()
				l := newDeletion(t, opts...)
				l.insert(3, poisonous)
				read := "get_stream_messages"
				if way == "direct" && condition == "" {
					read = "direct_stream_messages"
				}
				found := interlude{"identify_in_stream", l.remove}
				l.set(found, interlude{read, func() { l.insert(3, poisonous) }}, found)
				var filter mdb.StreamOptions
				if condition != "" {
					filter = append(filter, mdb.WithCondition(condition))
				}
				ms, err := l.GetStreamMessages(t.Context(), "account-1", filter)
				wantCode(t, err, "54000")
				if errors.As(err, new(*mdb.UnreadableError)) || len(ms) != 0 || l.left() != 0 {
					t.Errorf("got %d messages, error %v, want only the server's", len(ms), err)
				}
			})
		}
	}
}

// A deletion is a store with readable messages, to which others are added, and one that
// cannot be read may be deleted before a request.
type deletion struct {
	*mdb.Store
	interludes
	t     *testing.T
	admin *pgxpool.Pool
}

const (
	harmless  = `{"n": 1}`
	poisonous = `{"poison": "54000"}`
)

func newDeletion(t *testing.T, opts ...mdb.StoreOption) *deletion {
	t.Helper()
	url := testdb.New(t)
	l := &deletion{t: t, admin: newPool(t, url)}
	unreadable(t, l.admin)
	for i := range 3 {
		l.insert(i, harmless)
	}
	l.Store = newStore(t, newPool(t, url, l.attach), append(slices.Clone(opts), mdb.WithConditions(), often)...)
	return l
}

func (l *deletion) insert(position int, data string) {
	l.t.Helper()
	exec(l.t, l.admin, `INSERT INTO message_store.stored (stream_name, position, global_position, type, data)
		VALUES ('account-1', $1::bigint, $1::bigint + 1, 'Happened', $2::text::jsonb)`, position, data)
}

func (l *deletion) remove() {
	exec(l.t, l.admin, `DELETE FROM message_store.stored WHERE position = 3`)
}
