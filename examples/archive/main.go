//go:build unix

// The example archive writes the messages of a category to compressed files, as a subscription, and continues where they
// end. Of each message it writes the line that mdb export prints, so mdb import reads them:
//
//	cat archive/* | gunzip | mdb import -times
//
// The files are the only record of what is archived. If the store has lost messages that they contain, it ends with an error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

type options struct {
	category mdb.Category
	folder   string
	size     int64
	every    time.Duration
	once     bool
}

func (o *options) check() error {
	switch {
	case o.category == "" || o.folder == "":
		return errors.New("-category and -folder are missing")
	case o.size < 1 || o.every <= 0:
		return errors.New("-size and -every must be positive")
	}
	return nil
}

var errCaughtUp = errors.New("caught up")

func run(ctx context.Context, url string, o options) error {
	files, err := openFolder(o.folder, o.category, o.size)
	if err != nil {
		return err
	}
	defer files.close()
	store, err := mdb.Connect(ctx, url, mdb.WithNotify())
	if err != nil {
		return err
	}
	defer store.Close()

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ended := flushEvery(ctx, o.every, files, stop)
	err = store.SubscribeToCategory(ctx, o.category,
		func(_ context.Context, m mdb.Message) error { return files.add(&m) },
		mdb.AfterCheckpoint(files.checkpoint),
		mdb.OnFork(func(_ context.Context, f mdb.Fork) error {
			return fmt.Errorf("the store has lost messages that are archived: it continues after %d, and %d of those that the archive ends with are missing", f.After, len(f.Missing))
		}),
		mdb.OnLive(func(live bool) {
			if live && o.once {
				stop(errCaughtUp)
			}
		}))
	stop(nil)
	<-ended
	if errors.Is(err, errCaughtUp) || errors.Is(err, context.Canceled) {
		return files.flush(time.Now())
	}
	return err
}

// flushEvery writes what is in memory now and then, until ctx ends. It stops the subscription if that fails.
func flushEvery(ctx context.Context, every time.Duration, files *folder, stop context.CancelCauseFunc) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(every); ; {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				if err := files.flush(now); err != nil {
					stop(err)
					return
				}
			}
		}
	}()
	return ended
}

func main() {
	var o options
	flag.Func("category", "the category to archive", func(s string) error { o.category = mdb.Category(s); return nil })
	flag.StringVar(&o.folder, "folder", "", "where the files are, of this category only")
	flag.Int64Var(&o.size, "size", 64<<20, "bytes after which a file is finished; one is also finished when its day has ended")
	flag.DurationVar(&o.every, "every", 10*time.Second, "how long a message stays in memory at most")
	flag.BoolVar(&o.once, "once", false, "end when everything is archived")
	flag.Parse()
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database with Message DB")
	}
	if err := o.check(); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, url, o)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
