package archive

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// proofTimeout is how long a notification may take through a proxy to a shard.
const proofTimeout = 10 * time.Second

// prove checks that the proxies use the two databases as their shards. The numbers do not show it, because a copy of a shard has the same one.
// A notification does, which the proxy sends to its shard with the number.
func (s *move) prove(ctx context.Context) error {
	for i, number := range []int{s.state.From, s.state.To} {
		listener := s.locks[i].Conn()
		if _, err := listener.Exec(ctx, "LISTEN "+trigger.Channel); err != nil {
			return err
		}
		for _, proxy := range s.Proxies {
			if err := proveOne(ctx, proxy, listener, number); err != nil {
				return err
			}
		}
		if _, err := listener.Exec(ctx, "UNLISTEN "+trigger.Channel); err != nil {
			return err
		}
	}
	return nil
}

func proveOne(ctx context.Context, proxy *pgxpool.Pool, listener *pgx.Conn, number int) error {
	payload := trigger.NoStream + "move-" + crand.Text()
	patient, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	sent, err := notifyShard(patient, proxy, number, payload)
	if err == nil && !sent {
		return nil
	}
	for err == nil {
		var n *pgconn.Notification
		if n, err = listener.WaitForNotification(patient); err == nil && n.Payload == payload {
			return nil
		}
	}
	if ctx.Err() == nil && patient.Err() != nil {
		return fmt.Errorf("a notification by the proxy to its shard %d has not arrived after %s, so that shard is another database, or there is a pooler between: %w",
			number, proofTimeout, err)
	}
	return err
}

// notifyShard lets a proxy send a notification to its shard with the number. It reports false for a proxy whose SQL is not that of
// [schema.ProxySQL], through which nobody waits.
func notifyShard(ctx context.Context, proxy *pgxpool.Pool, number int, payload string) (sent bool, err error) {
	_, err = proxy.Exec(ctx, `SELECT message_store_proxy.notify($1, $2)`, number, payload)
	if server := (*pgconn.PgError)(nil); errors.As(err, &server) && server.Code == "42883" {
		return false, nil
	}
	return err == nil, err
}
