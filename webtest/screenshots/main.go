// The program screenshots takes the pictures of the documentation: it fills a store with the messages of a shop, runs its consumers, and
// takes the pages in light and dark.
package main

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbweb"
	"github.com/messagedb-go/messagedb/webtest/internal/browser"
	"github.com/messagedb-go/messagedb/webtest/internal/shop"
)

const (
	database = "shop"
	orders   = 400
	width    = 1180
	patience = time.Minute
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: screenshots FOLDER")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, folder string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	server, err := pgtest.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = admin.Exec(ctx, "CREATE DATABASE "+database)
	if err := errors.Join(err, admin.Close(ctx)); err != nil {
		return err
	}
	store, err := mdb.Connect(ctx, server.URL(database), mdb.WithNotify())
	if err != nil {
		return err
	}
	defer store.Close()
	if err := shop.Fill(ctx, store, orders); err != nil {
		return err
	}
	stop, err := consume(ctx, store)
	if err != nil {
		return err
	}
	defer stop()
	// A consumer with a lag.
	if err := pause(ctx, consumer.Admin(store.Pool()), "checkout"); err != nil {
		return err
	}
	if err := shop.Write(ctx, store, orders, orders/20); err != nil {
		return err
	}
	pages, err := mdbweb.New(store, mdbweb.WithWrites(), mdbweb.WithLogger(slog.New(slog.DiscardHandler))) //nolint:contextcheck // it opens no connection
	if err != nil {
		return err
	}
	defer pages.Close()
	site := httptest.NewServer(pages)
	defer site.Close()
	m, err := store.GetLastStreamMessage(ctx, "payment-10507")
	if err != nil {
		return err
	}
	chromium, end, err := browser.Start(ctx)
	if err != nil {
		return err
	}
	defer end()
	for name, picture := range map[string]struct {
		path   string
		height int64
	}{
		"overview": {"/", 780}, "message": {"/message/" + m.ID.String(), 1130}, "consumer": {"/consumers/show?name=checkout", 900},
	} {
		for colours, dark := range map[string]bool{"light": false, "dark": true} {
			var png []byte
			err := chromedp.Run(chromium, browser.Look(width, picture.height, 1, dark), chromedp.Navigate(site.URL+picture.path), chromedp.WaitVisible("main", chromedp.ByQuery), chromedp.CaptureScreenshot(&png))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(folder, name+"-"+colours+".png"), png, 0o644); err != nil { //nolint:gosec // for the documentation, in the folder that is given
				return err
			}
		}
	}
	return nil
}

// pause pauses a consumer, and waits until its processes have noticed that: the second heartbeat comes after they have obeyed the first.
func pause(ctx context.Context, operator *consumer.Operator, name string) error {
	if err := operator.Pause(ctx, name, "the payment provider is down"); err != nil {
		return err
	}
	for range 2 {
		before, err := operator.Show(ctx, name)
		if err != nil {
			return err
		}
		for seen := false; !seen; {
			now, err := operator.Show(ctx, name)
			if err != nil {
				return err
			}
			seen = !slices.ContainsFunc(now.Processes, func(p consumer.MemberStatus) bool { return p.Seen.Before(before.At) })
		}
	}
	return nil
}

// consume runs the consumers in two processes, as far as the pages show, until they have handled or parked everything.
func consume(ctx context.Context, store *mdb.Store) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var ended []chan error
	stop = func() {
		cancel()
		for _, e := range ended {
			<-e //nolint:errcheck // it was stopped
		}
	}
	for _, instance := range []string{"0", "1"} {
		consumers, err := shop.Consumers(store, instance)
		if err != nil {
			stop()
			return nil, err
		}
		e := make(chan error, 1)
		ended = append(ended, e)
		go func() { e <- consumer.Run(ctx, consumers...) }()
	}
	operator := consumer.Admin(store.Pool())
	for end := time.After(patience); ; {
		list, err := operator.List(ctx)
		if err != nil {
			stop()
			return nil, err
		}
		waiting := 0
		for i := range list {
			if list[i].Pending > 0 || list[i].Members < 2 || len(list[i].Stuck) > 0 {
				waiting++
			}
		}
		if waiting == 0 && len(list) == 3 {
			return stop, nil
		}
		select {
		case <-time.After(200 * time.Millisecond): // only the database shows it
		case <-end:
			stop()
			return nil, errors.New("the consumers do not catch up")
		}
	}
}
