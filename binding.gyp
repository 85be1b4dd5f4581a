{
  'targets': [
    {
      'target_name': 'isthmus',
      'conditions': [
        ['OS=="linux"', {
          'sources': [
            'native/addon.cc',
            'native/arguments.cc',
            'native/doorbells.cc',
            'native/errors.cc',
            'native/locks.cc',
            'native/mapping.cc',
            'native/pages.cc',
            'native/sockets.cc',
            'native/watch.cc',
          ],
          'defines': [
            # In every Node.js that we support; and finalizers run where JavaScript objects may be touched.
            'NAPI_VERSION=8',
            'NODE_ADDON_API_CPP_EXCEPTIONS',
            'NODE_ADDON_API_DISABLE_DEPRECATED',
            # A worker that is terminated in the middle of a call takes no exception any more: that must not end the process.
            'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
            '_FILE_OFFSET_BITS=64',
          ],
          # node-addon-api is not ours to warn about, hence a system folder.
          'cflags_cc': [
            '-std=c++17',
            '-fexceptions',
            '-fvisibility=hidden',
            '-Wall',
            '-Wextra',
            '-isystem', '<!(node -p "require(\'path\').dirname(require.resolve(\'node-addon-api\'))")',
          ],
          'cflags_cc!': ['-fno-exceptions', '-std=gnu++17', '-std=gnu++20', '-Wno-unused-parameter'],
          'cflags!': ['-fno-exceptions', '-Wno-unused-parameter'],
        }, {
          # Regions need Linux. Elsewhere there is nothing to build, and installing must not fail for it.
          'type': 'none',
        }],
      ],
    },
  ],
}
