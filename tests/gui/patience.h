// Waiting in tests of the window: events go on meanwhile.
#pragma once

#include <QCoreApplication>
#include <QElapsedTimer>

namespace vitrine::app {

constexpr int kPatience_ms = 120'000;  // a loaded machine with a software driver, training beside

template <class Done>
bool wait_until(Done done) {
    QElapsedTimer timer;
    timer.start();
    while (!done()) {
        if (timer.elapsed() > kPatience_ms) return false;
        QCoreApplication::processEvents(QEventLoop::AllEvents, 20);
    }
    return true;
}

}  // namespace vitrine::app
