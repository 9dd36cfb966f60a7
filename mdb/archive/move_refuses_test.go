package archive_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb/archive"
)

// TestMoveRefuses checks what cannot be moved, and that nothing is changed by the attempt.
func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	exec := func(pool *pgxpool.Pool, sql string) {
		t.Helper()
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for want, spoil := range map[string]func(*scene, *archive.Mover){
		"contains no dash":       func(_ *scene, m *archive.Mover) { m.Category = "account-1" },
		"two shards and a proxy": func(_ *scene, m *archive.Mover) { m.Proxies = nil },
		"two connections or more": func(_ *scene, m *archive.Mover) {
			cfg := m.To.Config()
			cfg.MaxConns = 1
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			m.To = pool
		},
		"both stores are shard 0": func(_ *scene, m *archive.Mover) { m.To = m.From },
		"old store is not a shard": func(_ *scene, m *archive.Mover) {
			exec(m.From, `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT BY 1`)
		},
		"new store is not a shard": func(_ *scene, m *archive.Mover) {
			exec(m.To, `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT BY 1`)
		},
		"on shard 1 already": func(s *scene, _ *archive.Mover) {
			exec(s.proxy, `INSERT INTO message_store_proxy.placement VALUES ('account', 1)`)
		},
		"on shard 7, and not on": func(s *scene, _ *archive.Mover) {
			exec(s.proxy, `INSERT INTO message_store_proxy.placement VALUES ('account', 7)`)
		},
		"the proxy has no shard 1": func(s *scene, _ *archive.Mover) {
			exec(s.proxy, `ALTER TABLE message_store_proxy.placement ADD CHECK (shard < 1)`)
		},
		"the proxy cannot be changed": func(s *scene, _ *archive.Mover) {
			exec(s.proxy, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = '42501'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON message_store_proxy.placement FOR EACH ROW EXECUTE FUNCTION refuse()`)
		},
		"ask the proxy":                func(s *scene, _ *archive.Mover) { exec(s.proxy, `DROP SCHEMA message_store_proxy CASCADE`) },
		"has messages of the category": func(s *scene, _ *archive.Mover) { s.write(1, movingStream); s.acknowledged = nil },
		"the same ID or global position": func(_ *scene, m *archive.Mover) {
			exec(m.To, `INSERT INTO message_store.messages (stream_name, type, position, global_position) VALUES ('other-1', 'A', 0, 1024)`)
		},
		"not that of the old one": func(s *scene, m *archive.Mover) {
			killAt(m, 3)
			if _, err := m.Move(context.Background()); err == nil {
				t.Error("the move was not killed")
			}
			m.After(nil)
			exec(m.From, `UPDATE message_store.messages SET id = gen_random_uuid()`)
			s.acknowledged = nil
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.write(0, movingStream)
			m := s.mover(0, 1)
			spoil(s, m)
			if _, err := m.Move(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if !s.write(0, movingStream) {
				t.Error("the old shard does not accept messages")
			}
		})
	}
}

// TestMoveAlone checks that a category is moved by one mover at a time.
func TestMoveAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.write(0, movingStream)
	m := s.mover(0, 1)
	steps := 0
	m.After(func(archive.MoveStep) error {
		if steps++; steps > 1 {
			return nil
		}
		other := s.mover(0, 1)
		_, move := other.Move(t.Context())
		_, abort := other.Abort(t.Context())
		_, look := other.State(t.Context())
		for _, err := range []error{move, abort, look} {
			if err == nil || !strings.Contains(err.Error(), "another move of the category is running") {
				t.Errorf("got %v", err)
			}
		}
		return nil
	})
	if _, err := m.Move(t.Context()); err != nil {
		t.Fatal(err)
	}
}
