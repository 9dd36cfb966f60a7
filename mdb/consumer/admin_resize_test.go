package consumer_test

import (
	"context"
	"errors"
	"testing"
)

// TestAdminResizeEnded checks what a resize says whose ctx ends during its COMMIT: nothing if it is committed nevertheless, and otherwise that it
// has ended.
func TestAdminResizeEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cancelled  string // what the COMMIT does when it is cancelled
		partitions int
		want       error
	}{
		"and it is committed":     {"NULL", 4, nil},
		"and it is not committed": {"RAISE query_canceled", 2, errEnough},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, o := caughtUp(t)
			pool := c.store.Pool()
			if _, err := pool.Exec(t.Context(), `CREATE FUNCTION public.hang() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		BEGIN
			PERFORM pg_sleep(3600);
		EXCEPTION WHEN query_canceled THEN
			PERFORM pg_sleep(0.3);
		END;
	EXCEPTION WHEN query_canceled THEN -- up to 17, a request to cancel signals the session twice
		NULL;
	END;
	`+test.cancelled+`;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER hang AFTER UPDATE ON message_store_consumers.consumers DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.partitions <> OLD.partitions) EXECUTE FUNCTION public.hang()`); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			ended := make(chan error, 1)
			go func() { ended <- o.Resize(ctx, "clinic", 4) }()
			eventually(t, "its COMMIT", func() (sleeps bool) {
				err := pool.QueryRow(t.Context(), `SELECT EXISTS (
					SELECT FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'commit%' AND wait_event = 'PgSleep')`).Scan(&sleeps)
				return err == nil && sleeps
			})
			cancel(errEnough)
			if err := <-ended; !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if d, err := o.Show(t.Context(), "clinic"); err != nil || d.Partitions != test.partitions {
				t.Errorf("got %d partitions, %v, want %d", d.Partitions, err, test.partitions)
			}
		})
	}
}
