// Package browser starts a Chromium without a window.
package browser

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// ErrMissing says that there is no Chromium.
var ErrMissing = errors.New("there is no chromium in PATH (Debian: chromium)")

// Start starts a browser, which ends with ctx or by stop.
func Start(ctx context.Context) (browser context.Context, stop func(), err error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		if path, err = exec.LookPath("google-chrome"); err != nil {
			return nil, nil, ErrMissing
		}
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("force-color-profile", "srgb"),
		chromedp.WSURLReadTimeout(2*time.Minute)) // it starts slowly if the machine is busy
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // root has none
	}
	allocator, end := chromedp.NewExecAllocator(ctx, opts...)
	browser, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(logError))
	stop = func() { cancel(); end() }
	if err := chromedp.Run(browser); err != nil {
		stop()
		return nil, nil, err
	}
	return browser, stop, nil
}

// logError logs an error of chromedp, unless it says that the browser is newer and has more events.
func logError(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !strings.HasPrefix(text, "unhandled node event") {
		log.Print(text)
	}
}

// Look sets the size of the window and the colours that the user prefers.
func Look(width, height int64, scale float64, dark bool) chromedp.Tasks {
	colours := "light"
	if dark {
		colours = "dark"
	}
	return chromedp.Tasks{
		emulation.SetDeviceMetricsOverride(width, height, scale, width < 600),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: colours}}),
	}
}
