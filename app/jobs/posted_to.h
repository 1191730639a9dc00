// How the thread of a JobQueue gives back what it found: run later, on the thread of an object of the window.
#pragma once

#include <QMetaObject>
#include <QObject>

#include <functional>
#include <utility>

namespace vitrine::app {

/// What is still under way when `there` dies is dropped.
inline std::function<void(std::function<void()>)> posted_to(QObject* there) {
    return [there](std::function<void()> closure) {
        QMetaObject::invokeMethod(there, std::move(closure), Qt::QueuedConnection);
    };
}

}  // namespace vitrine::app
