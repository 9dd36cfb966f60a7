// The demo: a small bank on Message DB.
//
// Writers move money between accounts, each transfer two messages in one
// transaction, and try again when somebody else was faster. Meanwhile readers
// rebuild balances from the accounts' streams, and a consumer group of three
// subscribes to the category, woken by the NOTIFY trigger. At the end it proves that no money was lost or made, and
// that each message was seen by exactly one member of the group.
//
// Without DATABASE_URL it starts a PostgreSQL of its own from the programs on
// the machine, and removes it afterwards.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

func main() {
	var b bank
	flag.DurationVar(&b.duration, "for", 10*time.Second, "how long money is moved")
	flag.IntVar(&b.accounts, "accounts", 20, "how many accounts there are")
	flag.IntVar(&b.writers, "writers", 4, "how many writers move money at once")
	flag.BoolVar(&b.polling, "polling", false, "let the group poll instead of waiting for the NOTIFY trigger")
	yes := flag.Bool("yes", false, "install Message DB in the database of DATABASE_URL without asking")
	flag.Parse()

	os.Exit(status(&b, *yes))
}

// status runs the demo and returns the process's exit status.
func status(b *bank, yes bool) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, b, yes)
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
		fmt.Println("interrupted")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, b *bank, yes bool) error {
	if b.accounts < 2 || b.writers < 1 || b.duration <= 0 {
		return errors.New("want at least two accounts, one writer and a positive duration")
	}
	s, cleanUp, err := open(ctx, b, yes)
	if err != nil {
		return err
	}
	defer cleanUp()
	if err := s.Check(ctx); err != nil {
		return err
	}
	b.store = s
	return b.run(ctx)
}

// options are those of the demo's store.
func (b *bank) options() []mdb.StoreOption {
	if b.polling {
		return nil
	}
	return []mdb.StoreOption{mdb.WithNotify()}
}

// open returns a store that the demo may write to, and what undoes it.
func open(ctx context.Context, b *bank, yes bool) (*mdb.Store, func(), error) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		// Somebody may have accounts of their own there.
		b.category = mdb.Category("demoAccount" + strings.ReplaceAll(uuid.NewString(), "-", ""))
		s, err := mdb.Connect(ctx, url, b.options()...)
		if err != nil {
			return nil, nil, err
		}
		if err := offerInstall(ctx, s, yes); err != nil {
			s.Close()
			return nil, nil, err
		}
		return s, s.Close, nil
	}

	b.category = "account"
	// Rates should be those of a server that keeps its promises.
	server, err := pgtest.Start(ctx, pgtest.Setting("fsync", "on"))
	if err != nil {
		return nil, nil, err
	}
	stop := func() {
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "demo: stop PostgreSQL:", err)
		}
	}
	fmt.Printf("PostgreSQL %d started, to be removed at the end\n", server.Version())
	s, err := mdb.Connect(ctx, server.URL("postgres"), b.options()...)
	if err != nil {
		stop()
		return nil, nil, err
	}
	err = schema.Install(ctx, s.Pool())
	if err == nil && !b.polling {
		// On a database of the user's own, the trigger is the user's to install.
		err = schema.InstallNotify(ctx, s.Pool())
	}
	if err != nil {
		s.Close()
		stop()
		return nil, nil, err
	}
	return s, func() { s.Close(); stop() }, nil
}

// offerInstall installs Message DB where it is missing, if the user agrees.
func offerInstall(ctx context.Context, s *mdb.Store, yes bool) error {
	_, err := s.MessageStoreVersion(ctx)
	if setup := new(mdb.SetupError); !errors.As(err, &setup) {
		return err
	}
	if !yes {
		fmt.Print("Message DB is not installed in the database of DATABASE_URL. Install it there? [y/N] ")
		answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return errors.New("not installed, as you wish; -yes installs without asking")
		}
	}
	return schema.Install(ctx, s.Pool())
}
