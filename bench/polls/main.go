// Command polls measures how long a subscription that has caught up takes for a poll that
// finds nothing. With the names of two programs, each of which is this one, built from one of
// two commits, it starts a PostgreSQL and runs them in turns, see scripts/bench-polls. It uses
// only what older commits have, too.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// urlVariable is the environment variable with the server's URL for a turn.
const urlVariable = "MDB_BENCH_POLLS_URL"

func main() {
	polls := flag.Int("polls", 1000, "polls of each case in a turn")
	turns := flag.Int("turns", 20, "turns of each program, at least 6 for an interval")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if url := os.Getenv(urlVariable); url != "" {
		err = measure(ctx, url, *polls)
	} else {
		err = compare(ctx, *turns, *polls, flag.Args())
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "polls:", err)
		os.Exit(2)
	}
}

// categories are those of the store: each has a thousand small messages, and then a last one
// with so many bytes.
var categories = map[mdb.Category]int{"small": 10, "large": 1 << 20}

// compare runs the programs in turns. The output of each goes to a file with its name and the
// suffix .txt.
func compare(ctx context.Context, turns, polls int, programs []string) error {
	if len(programs) == 0 {
		return errors.New("name the programs to compare")
	}
	server, err := pgtest.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Stop() //nolint:errcheck // it is temporary
	url := server.URL("postgres")
	if err := seed(ctx, url); err != nil {
		return err
	}
	for range turns {
		for _, program := range programs {
			cmd := exec.CommandContext(ctx, program, "-polls", fmt.Sprint(polls))
			cmd.Env = append(os.Environ(), urlVariable+"="+url)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%s: %w", program, err)
			}
			file, err := os.OpenFile(program+".txt", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = file.Write(out)
			if err := errors.Join(err, file.Close()); err != nil {
				return err
			}
		}
		slices.Reverse(programs)
	}
	return nil
}

func seed(ctx context.Context, url string) error {
	s, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := schema.Install(ctx, s.Pool()); err != nil {
		return err
	}
	for category, size := range categories {
		for i := range 16 {
			messages := make([]mdb.ProposedMessage, 64)
			for j := range messages {
				messages[j] = mdb.NewMessage("Deposited", map[string]int{"amount": j})
			}
			if _, err := s.WriteMessages(ctx, category.Stream(fmt.Sprint(i)), messages); err != nil {
				return err
			}
		}
		random := make([]byte, size/2)
		_, _ = rand.Read(random)
		if _, err := s.WriteMessage(ctx, category.Stream("0"), mdb.NewMessage("Attached", []string{hex.EncodeToString(random)})); err != nil {
			return err
		}
	}
	_, err = s.Pool().Exec(ctx, "VACUUM ANALYZE")
	return err
}

var errEnough = errors.New("enough")

// measure prints the median time of a poll of each case, as go test prints benchmarks.
func measure(ctx context.Context, url string, polls int) error {
	for _, way := range []struct {
		name string
		opts []mdb.ConnectOption
	}{{"procedures", nil}, {"direct", []mdb.ConnectOption{mdb.WithDirectSQL()}}} {
		s, err := mdb.Connect(ctx, url, way.opts...)
		if err != nil {
			return err
		}
		for _, category := range []mdb.Category{"small", "large"} {
			for _, kind := range []struct {
				name string
				opts []mdb.CategorySubscribeOption
			}{{"all", nil}, {"group", []mdb.CategorySubscribeOption{mdb.AsConsumerGroup(0, 16)}}} {
				median, err := emptyPoll(ctx, s, category, polls, kind.opts)
				if err != nil {
					return err
				}
				fmt.Printf("BenchmarkEmptyPoll/%s/%s/last_of_%d_B %d %d ns/op\n", way.name, kind.name, categories[category], polls, median.Nanoseconds())
			}
		}
		s.Close()
	}
	return nil
}

// emptyPoll returns the median time from one call of the polling strategy to the next. It
// includes the shortest possible wait.
func emptyPoll(ctx context.Context, s *mdb.Store, category mdb.Category, polls int, opts []mdb.CategorySubscribeOption) (time.Duration, error) {
	const warmUp = 100
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var begun time.Time
	times := make([]time.Duration, 0, polls)
	strategy := func(seen poll.Seen) time.Duration {
		if seen.Empty > warmUp {
			times = append(times, time.Since(begun))
		}
		if len(times) == polls {
			cancel(errEnough)
		}
		begun = time.Now()
		return 1
	}
	handler := func(context.Context, mdb.Message) error { return nil }
	err := s.SubscribeToCategory(ctx, category, handler, append(opts, mdb.WithPolling(strategy))...)
	if !errors.Is(err, errEnough) {
		return 0, err
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
